#!/bin/sh
# Makes a machine an identity of its own when its disk is a copy, and tells its ssh host keys on the console at every
# boot, before its ssh server answers: there vcld reads them, and only the hypervisor can write there.
# vcld installed this when the image was captured. The flag says what is to be replaced; it goes last, so a machine whose
# power is cut in the middle begins again.
#
# $1  `renew`, `tell`, or nothing for both

ROOT=${ROOT:-}
flag=$ROOT/var/lib/vcld/first-boot
ssh=$ROOT/etc/ssh
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH

new_machine_id() {
    read -r uuid </proc/sys/kernel/random/uuid
    IFS=-
    # shellcheck disable=SC2086
    set -- $uuid
    unset IFS
    printf %s "$@"
    echo
}

renew() {
    while read -r word value; do
        case $word in
            machine-id)
                id=''
                [ ! -f "$ROOT/etc/machine-id" ] || read -r id <"$ROOT/etc/machine-id"
                # systemd has made one by now where the file was empty; a copy of a running machine still has the old one.
                if [ -z "$id" ] || [ "$id" = "$value" ] || [ "$id" = uninitialized ]; then
                    new_machine_id >"$ROOT/etc/machine-id.vcld-new" &&
                        chmod 444 "$ROOT/etc/machine-id.vcld-new" &&
                        { mv -f "$ROOT/etc/machine-id.vcld-new" "$ROOT/etc/machine-id" 2>/dev/null ||
                            cat "$ROOT/etc/machine-id.vcld-new" >"$ROOT/etc/machine-id"; }
                    rm -f "$ROOT/etc/machine-id.vcld-new"
                fi
                ;;
            key)
                case $value in
                    dsa | '' | *[!a-z0-9_]*) continue ;;
                    *) ;;
                esac
                file=$ssh/ssh_host_${value}_key
                rm -f "$file.vcld-new" "$file.vcld-new.pub"
                ssh-keygen -q -t "$value" -N '' -C '' -f "$file.vcld-new" </dev/null &&
                    mv -f "$file.vcld-new.pub" "$file.pub" && mv -f "$file.vcld-new" "$file" || return 1
                ;;
        esac
    done <"$flag"
    if [ -d "$ROOT/var/lib/systemd" ]; then
        (umask 077 && head -c 512 /dev/urandom >"$ROOT/var/lib/systemd/random-seed")
    fi
    sync
    rm -f "$flag"
}

# All at once, so that what the kernel says does not come in between.
tell() {
    text=''
    for file in "$ssh"/ssh_host_*_key.pub; do
        [ -f "$file" ] || continue
        read -r type key _ <"$file"
        text="${text}vcld-host-key: $type $key
"
    done
    [ -n "$text" ] || return 0
    if [ -n "$ROOT" ]; then
        printf '\n%s' "$text"
        return
    fi
    for to in /dev/console /dev/ttyS0; do
        [ ! -c "$to" ] || printf '\n%s' "$text" 2>/dev/null >"$to"
    done
}

status=0
[ "${1:-}" = tell ] || [ ! -f "$flag" ] || renew || status=1
[ "${1:-}" = renew ] || tell
exit $status
