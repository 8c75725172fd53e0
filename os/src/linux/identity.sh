# Makes a new identity beside the one that a guest has, for an image that cannot do so by itself when it boots. It is
# put in place by `setup.sh`: until then the guest is who it was, and vcld knows both. Running it again changes nothing.
#
# Prints `hostkey<TAB>line` for each new host key.
#
# ROOT  in front of every path: empty for the running system

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

new_machine_id() {
    read -r uuid </proc/sys/kernel/random/uuid
    IFS=-
    # shellcheck disable=SC2086
    set -- $uuid
    unset IFS
    printf %s "$@"
    echo
}

main() {
    stage=$ROOT/etc/ssh/.vcld-identity
    if [ ! -e "$stage/whole" ]; then
        rm -rf "$stage"
        mkdir -m 700 "$stage" || fail "cannot make $stage"
        new_machine_id >"$stage/machine-id" || fail "cannot make a machine-id"
        for file in "$ROOT"/etc/ssh/ssh_host_*_key; do
            [ -f "$file" ] || continue
            type=${file##*/ssh_host_} type=${type%_key}
            case $type in dsa | *[!a-z0-9_]*) continue ;; esac
            ssh-keygen -q -t "$type" -N '' -C '' -f "$stage/${file##*/}" </dev/null || fail "cannot make an ssh host key"
        done
        : >"$stage/whole" || fail "cannot write $stage"
    fi
    for file in "$stage"/ssh_host_*_key.pub; do
        [ ! -f "$file" ] || { read -r line <"$file" && printf 'hostkey\t%s\n' "$line"; }
    done
}
main
