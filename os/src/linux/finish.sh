# Takes the last of a guest's identity, which it needs to be talked to, and leaves it off, on or rebooting.
#
# IDENTITY  `take`, or `keep` for a plain shutdown or reboot
# END       `off`, `reboot`, `on`; `none` with ROOT
# ROOT      in front of every path: empty for the running system
#
# Once it has begun it goes on to its end, also when the connection breaks. It may run again.

changed() { printf 'changed\t%s\t%s\n' "$1" "${2#"$ROOT"}"; }
fail() {
    code=$1
    shift
    printf '%s\n' "$*" >&2
    exit "$code"
}

# Whether this is still the boot in which the guest was generalised. If not, a new identity has been made since, and it
# would be wrong to take that.
same_boot() {
    [ -z "$ROOT" ] || return 0
    [ -f /var/lib/vcld/first-boot ] || return 1
    read -r now </proc/sys/kernel/random/boot_id
    while read -r word value; do
        if [ "$word" = boot ]; then
            [ "$value" = "$now" ]
            return
        fi
    done </var/lib/vcld/first-boot
    return 1
}

# What was to be kept is not in the flag.
in_flag() {
    while read -r word value; do
        case "$word $value" in "$1" | "$1 "*) return 0 ;; esac
    done <"$ROOT/var/lib/vcld/first-boot"
    return 1
}

take_machine_id() {
    file=$ROOT/etc/machine-id
    [ -s "$file" ] && in_flag machine-id || return 0
    if [ "$END" = on ]; then
        # The running system keeps its own by way of a file in memory, as systemd itself does when the disk cannot be
        # written; what is on the disk is empty.
        while read -r _ dir _; do
            [ "$dir" != /etc/machine-id ] || return 0
        done </proc/mounts
        cp "$file" /run/machine-id && chmod 444 /run/machine-id && : >"$file" && mount --bind /run/machine-id "$file" || {
            [ ! -s /run/machine-id ] || cp /run/machine-id "$file"
            printf 'note\tthe machine-id stays on the disk until a copy has booted once\n'
            return 0
        }
    else
        # Empty, not `uninitialized`: that would make systemd set every unit back to what its vendor thinks.
        : >"$file" || fail 1 "cannot empty $file"
    fi
    changed machine-id "$file"
}

take_host_keys() {
    # A machine that stays on needs them; a copy of its disk replaces them when it boots.
    [ "$END" != on ] || return 0
    for file in "$ROOT"/etc/ssh/ssh_host_*_key; do
        type=${file##*/ssh_host_} type=${type%_key}
        if [ -f "$file" ] && in_flag "key $type"; then
            rm -f "$file" "$file.pub" || fail 1 "cannot remove $file"
            changed 'ssh host key' "$file"
        fi
    done
}

take_seed() {
    [ -z "$ROOT" ] && [ "$END" != on ] && [ -d /run/systemd/system ] || return 0
    # Stopped now it writes its seed now, and not after we have removed it.
    systemctl stop systemd-random-seed.service >/dev/null 2>&1
    rm -f /var/lib/systemd/random-seed
}

# Which way there is to do it, without doing it.
find_way() {
    if [ -d /run/systemd/system ]; then
        way='systemctl --no-block'
    elif command -v "$1" >/dev/null 2>&1; then
        way=''
    else
        fail 4 "it has no command $1"
    fi
}

main() {
    # Not to be stopped by a connection that breaks: neither by its end nor by what is said into it.
    trap '' HUP INT TERM PIPE
    case $END in
        off) verb=poweroff ;;
        reboot) verb=reboot ;;
        on | none) verb='' ;;
        *) fail 4 "it knows no end state $END" ;;
    esac
    [ -z "$verb" ] || find_way "$verb"
    if [ "$IDENTITY" = take ]; then
        if ! same_boot; then
            [ "$END" = reboot ] || fail 1 'it was started again since it was generalised'
            printf 'already\trebooted\n'
            return 0
        fi
        take_host_keys
        take_machine_id
        take_seed
        [ -n "$ROOT" ] || sync
    fi
    [ -n "$verb" ] || return 0
    # A moment later, so that what is said here still gets out.
    {
        sleep 0.3 2>/dev/null || sleep 1
        $way $verb || $verb -f
    } </dev/null >/dev/null 2>&1 &
}
main
