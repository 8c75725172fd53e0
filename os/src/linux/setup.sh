# Makes a loaded guest ready: its name, its new identity where one was made beside the old, nothing left of ours.
#
# NAME  the computer's name
# ROOT  in front of every path: empty for the running system
#
# Prints `hostkey<TAB>line` for each key of its ssh server and `identity<TAB>new` if that server has new ones.

changed() { printf 'changed\t%s\t%s\n' "$1" "${2#"$ROOT"}"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# put FILE MODE TEXT: writes a file unless it says so already.
put() {
    if [ -f "$1" ] && [ "$(cat "$1")" = "$3" ]; then
        return 0
    fi
    mkdir -p "${1%/*}" && printf '%s\n' "$3" >"$1.vcld-new" && chmod "$2" "$1.vcld-new" &&
        { mv -f "$1.vcld-new" "$1" 2>/dev/null || { cat "$1.vcld-new" >"$1" && rm -f "$1.vcld-new"; }; } ||
        fail "cannot write $1"
    changed file "$1"
}

# A copy has replaced its identity before its ssh server came up. A flag that is of this boot is another thing: the
# machine was to be captured and goes on instead, as who it is.
settle_first_boot() {
    flag=$ROOT/var/lib/vcld/first-boot
    [ -f "$flag" ] || return 0
    boot='' now=offline
    [ -n "$ROOT" ] || read -r now </proc/sys/kernel/random/boot_id
    while read -r word value; do
        [ "$word" != boot ] || boot=$value
    done <"$flag"
    if [ "$boot" != "$now" ]; then
        tries=0
        while [ -f "$flag" ]; do
            tries=$((tries + 1))
            [ $tries -le 60 ] || fail "it has not made an identity of its own: see journalctl -u vcld-first-boot there"
            sleep 1
        done
        return 0
    fi
    if [ -z "$ROOT" ]; then
        while read -r _ dir _; do
            [ "$dir" != /etc/machine-id ] || umount /etc/machine-id
        done </proc/mounts
        [ -s /etc/machine-id ] || [ ! -s /run/machine-id ] || cat /run/machine-id >/etc/machine-id
    fi
    rm -f "$flag" || fail "cannot remove $flag"
    changed 'first-boot flag' "$flag"
}

# Each file is moved by one rename, so doing it again after a crash goes on where it was.
take_staged_identity() {
    stage=$ROOT/etc/ssh/.vcld-identity
    [ -e "$stage/whole" ] || { rm -rf "$stage" && return; }
    for file in "$stage"/ssh_host_*_key; do
        [ -f "$file" ] || continue
        mv -f "$file.pub" "$ROOT/etc/ssh/${file##*/}.pub" && mv -f "$file" "$ROOT/etc/ssh/${file##*/}" ||
            fail "cannot put the new ssh host keys in place"
    done
    if [ -f "$stage/machine-id" ]; then
        chmod 444 "$stage/machine-id"
        mv -f "$stage/machine-id" "$ROOT/etc/machine-id" 2>/dev/null ||
            cat "$stage/machine-id" >"$ROOT/etc/machine-id" || fail "cannot put the new machine-id in place"
    fi
    if [ -f "$ROOT/var/lib/dbus/machine-id" ] && [ ! -L "$ROOT/var/lib/dbus/machine-id" ]; then
        ln -sf /etc/machine-id "$ROOT/var/lib/dbus/machine-id"
    fi
    for file in "$ROOT/var/lib/systemd/random-seed" "$ROOT/var/lib/urandom/random-seed"; do
        [ ! -f "$file" ] || head -c 512 /dev/urandom >"$file"
    done
    [ -n "$ROOT" ] || reload_ssh_server
    rm -rf "$stage"
    printf 'identity\tnew\n'
}

set_name() {
    put "$ROOT/etc/hostname" 644 "$NAME"
    if [ -z "$ROOT" ]; then
        { printf '%s\n' "$NAME" >/proc/sys/kernel/hostname; } 2>/dev/null || hostname "$NAME" || fail "cannot set the hostname"
    fi
    text='' named=''
    if [ -f "$ROOT/etc/hosts" ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in
                127.0.1.1[[:space:]]*)
                    [ -z "$named" ] || continue
                    line="127.0.1.1	$NAME" named=yes
                    ;;
            esac
            text="$text$line
"
        done <"$ROOT/etc/hosts"
    fi
    [ -n "$named" ] || text="${text}127.0.1.1	$NAME
"
    put "$ROOT/etc/hosts" 644 "${text%?}"
}

check_machine_id() {
    id=''
    [ ! -f "$ROOT/etc/machine-id" ] || read -r id <"$ROOT/etc/machine-id"
    case $id in '' | uninitialized) ;; *) return 0 ;; esac
    if [ -z "$ROOT" ] && command -v systemd-machine-id-setup >/dev/null 2>&1; then
        systemd-machine-id-setup >/dev/null 2>&1
    elif [ -e "$ROOT/etc/machine-id" ]; then
        read -r uuid </proc/sys/kernel/random/uuid
        IFS=-
        # shellcheck disable=SC2086
        set -- $uuid
        unset IFS
        { printf %s "$@" && echo; } >"$ROOT/etc/machine-id"
    else
        return 0
    fi
    [ -s "$ROOT/etc/machine-id" ] || fail "it has no machine-id and could not be given one"
    changed machine-id "$ROOT/etc/machine-id"
}

tell_host_keys() {
    for file in "$ROOT"/etc/ssh/ssh_host_*_key.pub; do
        [ ! -f "$file" ] || { read -r line <"$file" && printf 'hostkey\t%s\n' "$line"; }
    done
    # Keys under other names.
    for config in "$ROOT/etc/ssh/sshd_config" "$ROOT"/etc/ssh/sshd_config.d/*.conf; do
        [ -f "$config" ] || continue
        while read -r word file _; do
            case $word in
                [Hh][Oo][Ss][Tt][Kk][Ee][Yy])
                    [ ! -f "$ROOT$file.pub" ] || { read -r line <"$ROOT$file.pub" && printf 'hostkey\t%s\n' "$line"; }
                    ;;
            esac
        done <"$config"
    done
}

main() {
    settle_first_boot
    # An image of a machine that was lent, or one that goes on after a capture: nothing of a reservation is in it any more.
    revoke_access
    take_staged_identity
    set_name
    check_machine_id
    rm -rf "$ROOT"/var/lib/vcld/hook.*
    put "$ROOT/etc/vcld/loaded" 644 "computer $NAME"
    # The keys are told and the flag is gone: a power cut must not bring back who it was, or make it somebody else.
    [ -n "$ROOT" ] || sync
    tell_host_keys
}
main
