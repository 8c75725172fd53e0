//! The cases, in the order in which they run.

mod capturing;
mod guests;
mod interrupting;
mod loading;
mod looking;
mod power;
mod things;

use super::kit::{Kit, Verdict};
use crate::Capability;
use futures::future::LocalBoxFuture;
use std::fmt;

/// One case.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// Which capability it is of; `None` for loading and taking back, which every backend can.
    pub of: Option<Capability>,
    /// Which others it needs.
    pub needs: &'static [Capability],
    /// Whether it boots a guest, where the world has one.
    pub boots: bool,
    /// What it shows.
    pub shows: &'static str,
    pub(super) run: for<'k> fn(&'k Kit<'k>) -> LocalBoxFuture<'k, Verdict>,
}
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Case {
    /// The word for what it is of.
    #[must_use]
    pub fn capability(&self) -> &'static str {
        self.of.map_or("load", Capability::as_str)
    }
}

/// `CAPABILITY [NEEDS] BOOTS NAME "what it shows" => function`, a line each; `Load` is what every backend can.
macro_rules! cases {
    (@ Load) => { None };
    (@ $of:ident) => { Some(Capability::$of) };
    ($($of:ident [$($need:ident)*] $boots:literal $name:literal $shows:literal => $run:path;)*) => {
        /// Every case there is.
        pub const CASES: &[Case] = &[$(Case {
            name: $name,
            of: cases!(@ $of),
            needs: &[$(Capability::$need),*],
            boots: $boots,
            shows: $shows,
            run: |kit| Box::pin($run(kit)),
        }),*];
    };
}

cases! {
    Load [] false "load-answers" "a load makes the machine, calls post_load once and answers where it is" => loading::answers;
    Load [] false "load-replayed" "a load that is done answers the same when it is asked again, and does nothing" => loading::replayed;
    Load [] false "load-over-leftovers" "what an earlier load left of the same computer is in nobody's way" => loading::over_leftovers;
    Load [] false "load-guest-not-ready" "a guest that never lets in ends the load with its deadline, and nothing is left" => loading::never_ready;
    Imaging [] false "load-revision-gone" "a revision whose file is gone fails the load, and nothing is left" => loading::revision_gone;
    Load [] false "unload-twice" "an unload leaves nothing; another finds nothing to do" => loading::unload_twice;
    Load [] false "unload-of-nothing" "a computer that was never loaded is unloaded without an error" => loading::unload_nothing;
    Load [] false "unload-replayed" "an unload that is done does nothing when it is asked again" => loading::unload_replayed;
    Load [] false "names" "computers of every legal name: one letter, digits, 63 characters" => loading::names;
    Load [] false "cleaned-between-users" "a machine that goes on as it is, is cleaned when it is taken back and before it is lent" => loading::cleaned;
    Load [] false "many-at-once" "twenty machines are loaded and unloaded at once, each at an endpoint of its own" => loading::many;
    Load [] false "plan-is-what-happens" "the plan is pure, and names the steps that a load takes" => loading::plan;

    Load [] false "load-killed" "killed at every journal write, a load is finished by the next process" => interrupting::load_killed;
    Load [] false "load-killed-twice" "and so is one whose second process is killed too" => interrupting::load_killed_twice;
    Load [] false "load-stopped" "stopped at every journal write, it goes on at the next start" => interrupting::load_stopped;
    Load [] false "load-lease-lost" "with its lease lost at every journal write, it is another's and stays the other's" => interrupting::load_lost;
    Load [] false "load-called-off" "called off at every journal write, it leaves nothing" => interrupting::load_called_off;
    Load [] false "load-killed-then-called-off" "killed, then called off in another process: it is undone from the journal alone" => interrupting::load_killed_called_off;
    Load [] false "undo-twice" "every step is undone from the journal by a process that never ran it, and again" => interrupting::undo_twice;
    Load [] false "undo-unknown-step" "a step that is in no table is not undone in silence" => interrupting::undo_unknown;
    Load [] false "unload-killed" "killed at every journal write, an unload is finished by the next process" => interrupting::unload_killed;

    Power [] false "power-states" "on, off and reset are what they say, and twice is no error" => power::states;
    Power [] false "power-races" "switched by several at once: what all want is no error, and after all of it the last word counts" => power::races;
    Power [] false "power-of-nobody" "a computer without a machine has no power to change" => power::nobody;
    Power [] false "powers-are-states" "the list of powers says what each state says" => power::listed;

    Vms [] false "machines-are-listed" "machines of vcld's are listed as its own, others are not" => things::listed;
    Load [] false "foreign-untouched" "a machine of another under our name is refused and not touched" => things::foreign;
    Load [] false "unknown-is-absent" "a computer that is not loaded is absent, and asking for more is an error" => things::unknown;
    Things [] false "things-are-vclds" "a loaded machine is among the things; others are not, and are not removed" => things::ours;
    Things [] false "things-find-leaks" "whatever a load that was killed leaves is found, and goes, and goes again" => things::leaks;
    Vms [] false "two-instances" "two instances do not take each other's machines for their own" => things::neighbours;

    Capture [] false "capture-contract" "pre_capture is called once, by the backend, with its end state; then the power is off" => capturing::contract;
    Capture [] false "capture-equals-source" "what is captured is what was on the disk" => capturing::equals_source;
    Capture [] false "capture-publishes-nothing" "a capture fills the staging that it is lent, and the library is as it was" => capturing::unpublished;
    Capture [] false "capture-refused-by-guest" "a guest that cannot be captured ends the capture, and nothing is in the staging" => capturing::refused_by_guest;
    Capture [] false "capture-of-nothing" "what is not loaded is not captured" => capturing::of_nothing;
    Capture [] false "capture-copy-deadline" "a copy that takes too long fails with its deadline, and nothing is in the staging" => capturing::deadline;
    Capture [] false "capture-killed" "killed at every journal write, a capture is finished by the next process" => interrupting::capture_killed;
    Capture [] false "capture-called-off" "called off at every journal write, it leaves nothing in the staging" => interrupting::capture_called_off;
    Capture [] false "capture-cancelled-in-mid-copy" "called off while bytes are copied, it leaves nothing in the staging" => capturing::cancelled_in_mid_copy;
    Capture [] false "resume-after-capture" "a captured computer is powered on and made ready again, as a new one" => capturing::resume;
    CaptureVm [] false "capture-vm-refusals" "no image is made of what is not there, or is vcld's own" => capturing::vm_refused;

    Console [] false "console-bounded" "a console has the lines that were asked for, and nothing that drives a terminal" => looking::console;
    Screenshot [Power] false "screenshot" "a display is a PNG, and that of a machine that is off is an error" => looking::screenshot;
    Description [] false "description" "a machine has a description; a computer without one has none" => looking::description;
    FreeSpace [] false "free-space" "free space is known, and no more than there can be" => looking::free_space;
    Written [] false "written" "what a machine has written is known while it is there" => looking::written;
    Load [] false "findings" "the instance is well, and says so" => looking::findings;
    Load [] false "unreachable" "a host that does not answer is `unreachable` in every call, soon, and a finding with a way out" => looking::unreachable;

    Load [] true "guest-answers" "a real guest answers under its name, by the host key that the endpoint has and no other" => guests::answers;
    Capture [] true "guest-captured" "a marker in a guest is on the computer that its capture is loaded on; the source resumes" => guests::captured;
    Load [] true "guest-killed-in-boot" "killed while a guest boots, the next process waits for the same guest" => guests::killed;
    Load [] true "guest-called-off-in-boot" "called off while a guest boots, nothing is left" => guests::called_off;
    Power [] true "guest-power-off" "a guest is asked to power off, and does" => guests::power_off;
    CaptureVm [] true "guest-image-of-vm" "an image is made of a machine of others, which is as it was" => guests::image_of_vm;
    HostKeys [] false "host-keys-known" "the new host keys of every guest so far were known before the first connection to it" => guests::keys_known;

    Load [] false "lacking-refused" "what it says that it lacks is refused as unsupported, with its reason, and changes nothing" => looking::lacking;
    Load [] false "secrets-kept" "no credential stood in any journal, event, description or finding so far" => looking::secrets;
}
