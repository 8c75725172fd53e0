# What the page says, in English. docs/page.md tells how another language is added.

## The frame

page-title = { $name } · vcld
page-nav = Main
page-skip = Skip to the content
page-sign-out = Sign out
page-node = Management node { $name }
page-zone = Times in
page-version = Version
page-away = vcld does not answer. Trying again; what is shown may be old.
page-over = over
page-copy = Copy
page-copied = Copied
page-back = Back
page-home = Start page
page-dialog = Preview
theme-dark = Dark
theme-light = Light
theme-system = As the system
filter = Filter
filter-all = All
filter-go = Show
filter-none = Show all

nav-reservations = Reservations
nav-classes = Classes
nav-wall = Computers
nav-queue = Queue
nav-images = Images
nav-charts = Charts
nav-operations = Operations
nav-elsewhere = Elsewhere

problem-not-found = There is nothing here
problem-forbidden = That is not for you
problem-refused = That cannot be done now
problem-busy = That is taken
problem-invalid = That cannot be read
problem-unavailable = vcld cannot answer now
problem-unauthorized = Sign in first
problem-internal = Something went wrong

## Columns and facts

col-actions = Actions
col-asked = Asked
col-began = Began
col-begins = Begins
col-booked = Kept for it
col-computer = Computer
col-computers = Computers
col-ended = Ended
col-ends = Ends
col-group = Group
col-image = Image
col-job = Job
col-loaded = Holds
col-node = Node
col-note = Note
col-object = Object
col-owner = User
col-position = Position
col-power = Power
col-production = In production
col-purpose = For
col-reservation = Reservation
col-result = Made
col-revisions = Revisions
col-said = What it said
col-seen = Last seen
col-since = Since
col-size = Size
col-state = State
col-test = Test
col-took = Took
col-until = Until
col-users = Loaded on
col-wait = Usual wait
col-waits-for = Waits for
col-what = What
col-who = Who
col-why = Why

wait-about = about { $name }
wait-between = usually { $from } to { $to }
wait-at-most = usually at most { $name }
wait-at-least = usually at least { $name }
wait-unknown = not known yet

## States

computer-available = free
computer-loading = loading
computer-reserved = reserved
computer-in-use = in use
computer-maintenance = maintenance
computer-broken = broken
job-queued = queued
job-running = running
job-waiting = waiting
job-done = done
job-failed = failed
job-cancelled = called off
job-stuck = stuck
reservation-scheduled = booked
reservation-queued = waiting
reservation-loading = loading
reservation-ready = ready
reservation-in-use = in use
reservation-ending = ending
reservation-ended = over
step-planned = planned
step-running = running
step-done = done
step-failed = failed
step-undone = taken back
node-alive = alive
node-left = left
node-dead = dead
power-on = on
power-off = off
power-paused = paused
power-absent = no machine
purpose-direct = load by hand
purpose-use = use
purpose-server = server, without an end
purpose-imaging = imaging: captured at the end
purpose-seat = seat of a class
trash-deleted = deleted
trash-exchanged = exchanged for a whole copy
trash-for-good = being removed

## Signing in

sign-in-title = Sign in
sign-in-what = Reserve a computer, watch it load, and work on it.
sign-in-name = Name
sign-in-password = Password
sign-in-go = Sign in
sign-in-provider = Sign in with { $name }
sign-in-with-token = With a token
sign-in-token = Token
sign-in-token-hint = From vclctl token create.
sign-in-no-token = This token is not good: it has ended, was taken back, or was cut off when it was copied.
sign-in-not-begun = This sign-in was not begun in this browser, or too long ago. Begin again.
sign-in-provider-no = The provider says no: { $name }

## Reservations

mine-title = My reservations
mine-none = You have no reservation now.
mine-no-images = There is no image that you may reserve. An administrator can give you the right.
mine-more = Reserve with more choices
mine-now = Reserve now
mine-usual-length = for { $name } unless you say otherwise
mine-reserve = Reserve
mine-reserve-one = Reserve { $name } now
mine-later = Later, or with more choices
mine-position = { $n ->
    [one] You are the next
   *[other] Number { $n } in the queue
 }
mine-begins = Begins
mine-left = Time left:
mine-open = Open
mine-past = Over
reservation-title = Reservation { $name }
reservation-connect = Connect
reservation-progress = How far the computer is
release-title = End the reservation of { $image }
release-says = The computer is taken back and cleaned. What is on it is lost.
release-imaging-says = The computer is captured as the next revision of the image, then taken back.
release-discard = Do not capture it: what is on it is lost
release-done = The reservation ends.
reload-title = Load { $image } again
reload-says = The computer is loaded anew, as it was at the beginning. What is on it is lost.
reload-done = The computer is loaded anew.
checkpoint-title = Capture what is on the computer now
checkpoint-says = The machine is rebooted and captured as the next revision of the image; then you go on. Accounts are made anew: what is in their homes is lost.
checkpoint-done = The computer is being captured.
reboot-title = Restart the computer
reboot-says = The computer is asked to restart.
reboot-hard = Press its reset button instead
reboot-done = The computer restarts.
extend-title = More time
extend-by = By
extend-go = Extend
extend-done = Extended by { $name }.
connect-what = Say that you come; the computer is then open to the address that your browser has.
connect-go = Show how to connect
connect-password = With a one-time password
connect-password-once = It is shown this once. Note it now.
connect-address = Address
connect-account = Account
connect-port = port { $n }
connect-rdp = Remote desktop file
connect-guacamole = Open in the browser
connect-keys = Host keys, to compare at the first connection

reserve-title = Reserve a computer
reserve-image = Image
reserve-start = Begin
reserve-start-hint = Empty: now. In
reserve-length = Hours
reserve-length-hint = Empty: as long as is usual.
reserve-purpose = For
reserve-more = More choices
reserve-computer = A certain computer
reserve-tags = Computers with these tags
reserve-cpus = Processors, at least
reserve-memory = Memory, at least
reserve-group = For the group
reserve-with = Also let in
reserve-keys = ssh keys for this reservation
reserve-keys-hint = One a line, besides those of your account.
reserve-sudo = Become root (sudo)
reserve-go = Reserve
reserve-try = What would I get?
reserve-would = You would get { $computer }, which would be loaded: { $because }.
reserve-would-warm = You would get { $computer } at once, it is loaded: { $because }.
reserve-would-wait = You would wait at position { $position }, { $wait }.
reserve-would-later = It can be booked.

## Computers

wall-title = Computers
wall-find = Name or user
wall-tag = Room, group
wall-backend = Host
wall-image = Image
wall-sums = How many in each state
wall-all = { $n ->
    [one] One computer
   *[other] { $n } computers
 }
wall-none = There is no computer yet. Computers stand in vcld.toml, under [computers].
wall-none-found = No computer is like that.
wall-empty = empty
computer-screen = Screen and console
computer-screenshot = Look at the screen
computer-console = Console
computer-cpus = { $n ->
    [one] one processor
   *[other] { $n } processors
 }
computer-verb = { $verb }: { $name }
console-nothing = Nothing was said yet.
console-again = Read it again
load-says = The image is put on the computer. Say which: NAME for the one in production, NAME@2 for a revision.
unload-says = The machine is removed from the computer. What is on it is lost.
capture-says = What is on the computer becomes the next revision of its image; the machine is powered off for it and goes on afterwards.
power-on-says = The machine is started.
power-off-says = The guest is asked to shut down, and is powered off by force after a while. Whoever works on it loses what is not saved.
force-off-says = The machine's power is cut.
reset-says = The machine's reset button is pressed. Whoever works on it loses what is not saved.
power-done = Done.

## The queue and jobs

queue-title = Queue
queue-waiting = Waiting for a computer
queue-nobody = Nobody waits.
queue-jobs = Jobs
queue-no-jobs = There is no such job.
queue-older = Older
job-title = Job { $name }
job-progress = How far the job is
job-left = usually { $p50 } more, 19 of 20 at most { $p95 }
job-steps = Steps
job-steps-key = seconds / usually
job-no-steps = No step has begun.
job-facts = Facts
job-log = What happened
job-no-log = Nothing yet.
job-evidence = What is kept of it
job-configured = Its objects
job-evidence-open = Read it
job-attempt = attempt { $n }
job-screen-of = The screen during: { $name }
configured-title = { $name } configured
configured-objects = What became of it
configured-dry = a dry run: nothing was changed
configured-key = What is done first stands at the left. A whole line leads to what waits because somebody said so, a broken one to what has defined the other.
configured-alone = { $n ->
    [one] One more object has to do with no other, and stands below alone.
   *[other] { $n } more objects have to do with no other, and stand below alone.
}
configured-too-many = There are too many objects that wait for others for a picture.
configured-none = No object was defined.
configured-picture = What waits for what
configured-each = One by one
configured-more = Parameters and output
configured-defined = Defined in
configured-text = As text
object-changed = changed
object-same = as it was
object-open = not done
object-failed = failed
why-next = Next: { $name }
why-ways = What can be done
cancel-says = The job stops at the end of its step and takes back what it did.
cancel-done = The job is being called off.
retry-says = The job goes on where it failed, or begins anew where it took everything back.
retry-done = The job is tried again.
undo-says = What the job did is taken back, by its journal.
undo-done = The job is being taken back.
abandon-says = The job is given up as it is. What it made stays, and is seen among the orphans.
abandon-done = The job is given up.
confirm-steps = What will be done
confirm-no = No, go back
confirm-usual = Usually takes { $p50 }, 19 of 20 times at most { $p95 }.

## Images

images-title = Images
images-new = New image
images-none = There is no image yet.
images-trash = Trash
image-held = Being changed: { $name }
image-lineage = Which came of which
image-lineage-of = Lineage of { $name }
image-production = in production
image-passed = test passed
image-failed = test failed
image-untested = not tested
image-elsewhere = not in this node's library
image-delta = stored as what differs from another
image-made = Made
image-parent = Made of
image-hardware = Hardware
image-nobody = no computer
image-test = Test
image-shares = Two clones share { $name }
image-compared = { $n ->
    [one] One thing was compared
   *[other] { $n } things were compared
 }
promote-title = Put { $name } into production
promote-says = New reservations get this revision. Idle computers that hold another are loaded anew, a few at a time.
promote-untested = It was never tested.
promote-failed = Its test failed.
promote-force = Although it has passed no test
promote-done = { $name } is in production.
test-says = Two clones are loaded on spare computers and compared, and the site's test scripts run on them.
test-wait = Wait for spare computers
verify-says = All files of the revision are read and compared with their digests.
delete-says = The revision goes to the trash and can be brought back for a while.
delete-now = Remove it for good at once
undelete-says = The revision is brought back from the trash.
prune-says = Revisions that nothing needs go to the trash: not the one in production, not one that is loaded, not one that another lies on.
prune-keep = Newest to keep
prune-keeps = { $n ->
    [0] None is kept for being new.
    [one] The newest one is kept in any case.
   *[other] The newest { $n } are kept in any case.
}
new-from-vm = From a machine
new-from-vm-what = A machine that was made by hand becomes an image. The machine itself stays as it is.
new-no-backend = You may not see the hosts.
new-machines = Show its machines
new-no-machines = There is no machine.
new-machine = Machine
new-managed = vcld's own
new-look = What would be made of it?
new-make = Make an image
new-to-copy = { $size } to copy; the library has { $free } free.
new-changes = Would be changed in the copy
new-keeps = Would be kept
new-import = From a file
new-import-what = A disk in a file on the management node: qcow2, raw, VMDK.
new-path = File on the management node
new-import-go = Import

## Classes

classes-title = Classes
classes-none = There is no class.
class-new = New class
class-name = Name
class-how-many = Seats
class-seats = { $n ->
    [one] one seat
   *[other] { $n } seats
 }
class-weekly = When
class-weekly-hint = As Mon 10-12; Tue,Thu 14:30-16. In the time zone of the site.
class-group = Who may take a seat
class-group-hint = A group; empty: whoever may reserve the image.
class-until = Last day
class-go = Make the class
class-is-there = There is a class { $name } already. End it first, or change it with vclctl class add.
class-added = { $name } is made; its seats are being booked.
class-ended = { $name } is ended.
class-next = Next:
class-have = { $booked } seats kept, { $taken } taken
class-missing = { $n ->
    [one] one missing
   *[other] { $n } missing
 }
class-missing-head = Missing
class-booked = Kept
class-ready = Ready
class-taken = Taken
class-times = Its next times
class-no-times = It has no more.
class-seats-now = Seats of the next time
class-called-off = called off
class-end-title = End the class { $name }
class-call-off-title = Call one time of { $name } off
end-class-says = It has no more times. Its seats are given back; who has one already keeps it.
call-off-says = That time's seats are given back. The others stay.

## Charts

charts-title = Charts
charts-own = of your own reservations
charts-days = How many days
charts-n-days = { $n } days
charts-empty = Nothing is known of these days.
charts-table = As a table
charts-day = Day
charts-p50 = half of them at most
charts-p90 = nine of ten at most
charts-p95 = 19 of 20 at most
charts-loads = How long loads take
charts-captures = How long captures take
charts-use = Use of computers
charts-hours = hours a day
charts-many = Reservations
charts-reservations = reservations a day
charts-waits = Waiting for a computer
charts-library = The library
charts-bytes = what its revisions take
charts-usage = Who used what
by-image = Image
by-group = Group
by-computer = Computer
by-owner = User
usage-reservations = Reservations
usage-no-shows = Nobody came
usage-hours = Hours
usage-peak = At once
usage-wait = Wait, half / nine of ten

## Operations

operations-title = Operations
operations-health = What is wrong
operations-well = all is well
operations-looked = { $n ->
    [one] one thing was looked at
   *[other] { $n } things were looked at
 }
operations-library = Library
operations-where = Where
operations-free = Free
operations-runs = Runs since
operations-hosts = Hosts
operations-nodes = Management nodes
operations-problems = Problems
operations-answers = answers
operations-silent = silent
operations-drained = drained
operations-running = Running
operations-waiting = Waiting
operations-leases = What jobs have to themselves
operations-no-leases = Nothing.
drain-title = Drain { $name }
drain-says = Nothing new is loaded there. Who works there goes on.
drain-done = { $name } is drained.
undrain-title = Use { $name } again
undrain-says = Computers there are given out again.
undrain-done = { $name } is used again.
orphans-title = Orphans
orphans-what = What is there and belongs to nobody, and what should be there and is not. Nothing of it is touched until somebody says so.
orphans-none = There is none: the records and the world agree.
orphans-how = Mismatch
orphans-left-over = left over
orphans-missing = missing
orphans-ignored = Ignored by { $who }: { $why }
orphan-title = { $verb }: { $name }
orphan-adopt-says = The computer that lost its record of it gets it back.
orphan-delete-says = It is removed for good.
orphan-ignore-says = Nobody is told of it any more.
maintenance-title = Maintenance
maintenance-none = Nothing is out of use, and nothing will be.
maintenance-open = until somebody ends it
maintenance-in-the-way = Waits for
maintenance-new = Take computers out of use
maintenance-computers-hint = Names with commas between, or a tag beside.
maintenance-go = Take them out
maintenance-added = They are out of use as soon as their users have finished.
end-window-title = End window { $name }
end-window-says = Its computers are given out again.
end-window-done = The window is ended.
audit-title = Record
audit-when = When
audit-did = Request
audit-answer = Answer
audit-from = From
audit-none = Nothing is recorded like that.

## Verbs

verb-release = End
verb-reload = Load anew
verb-checkpoint = Capture now
verb-reboot = Restart
verb-load = Load
verb-unload = Unload
verb-capture = Capture
verb-power-on = Power on
verb-power-off = Power off
verb-force-off = Cut the power
verb-reset = Reset
verb-cancel = Call off
verb-retry = Try again
verb-undo = Take back
verb-abandon = Give up
verb-promote = Promote
verb-test = Test
verb-verify = Verify
verb-delete = Delete
verb-undelete = Bring back
verb-prune = Prune
verb-end-class = End the class
verb-call-off = Call off
verb-drain = Drain
verb-undrain = Use again
verb-adopt = Adopt
verb-ignore = Ignore
verb-end-window = End
