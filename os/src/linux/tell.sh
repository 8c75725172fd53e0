# Writes a notice on every terminal that something runs on.
#
# TEXT  the notice: printable characters and line ends

main() {
    seen=' '
    for file in /proc/[0-9]*/stat; do
        { read -r stat <"$file"; } 2>/dev/null || continue
        # State, parent, group, session, terminal.
        # shellcheck disable=SC2086
        set -- ${stat##*) }
        # One whose name has a line end in it.
        [ $# -ge 5 ] || continue
        major=$((($5 >> 8) & 4095)) minor=$((($5 & 255) | (($5 >> 12) & 1048320)))
        case $major in
            136 | 137 | 138 | 139 | 140 | 141 | 142 | 143) terminal=/dev/pts/$(((major - 136) * 1048576 + minor)) ;;
            4)
                [ "$minor" -gt 0 ] && [ "$minor" -lt 64 ] || continue
                terminal=/dev/tty$minor
                ;;
            *) continue ;;
        esac
        case $seen in *" $terminal "*) continue ;; esac
        seen="$seen$terminal "
        [ -c "$terminal" ] || continue
        printf 'told\t%s\n' "$terminal"
        # A terminal that somebody has stopped takes nothing; nobody waits for it here.
        {
            printf '\r\n'
            printf '%s\n' "$TEXT" | while IFS= read -r line; do printf '%s\r\n' "$line"; done
        } >"$terminal" 2>/dev/null </dev/null &
    done
    return 0
}
main
