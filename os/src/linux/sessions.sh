# Tells who is connected to the ports of a reservation. It changes nothing.
#
# Prints `clock<TAB>seconds since the start` and `boot<TAB>when that was`, `method<TAB>NAME PORT`, `account<TAB>NAME UID`,
# `socket<TAB>LOCAL REMOTE INODE` in the kernel's own digits, and `holder<TAB>INODE PID UID NAME TICKS`.

main() {
    ledger=/var/lib/vcld/access ports=' '
    [ -f "$ledger/methods" ] || return 0
    while read -r name port; do
        case $port in '' | *[!0-9]*) continue ;; esac
        printf 'method\t%s %s\n' "$name" "$port"
        ports="$ports$(printf '%04X' "$port") "
    done <"$ledger/methods"
    while read -r name uid _; do printf 'account\t%s %s\n' "$name" "$uid"; done 2>/dev/null <"$ledger/accounts"
    while read -r word value _; do
        [ "$word" != btime ] || printf 'boot\t%s\n' "$value"
    done </proc/stat
    inodes=' '
    for file in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$file" ] || continue
        while read -r _ local remote state _ _ _ _ _ inode _; do
            [ "$state" = 01 ] || continue
            case $ports in *" ${local##*:} "*) ;; *) continue ;; esac
            printf 'socket\t%s %s %s\n' "$local" "$remote" "$inode"
            inodes="$inodes$inode "
        done <"$file"
    done
    [ "$inodes" != ' ' ] || return 0
    # One program for all of them; each is some hundred lines.
    # shellcheck disable=SC2012
    ls -l /proc/[0-9]*/fd 2>/dev/null | while read -r line; do
        case $line in
            /proc/*/fd:) pid=${line#/proc/} pid=${pid%/fd:} ;;
            *'-> socket:['*)
                inode=${line##*'socket:['} inode=${inode%]}
                case $inodes in *" $inode "*) ;; *) continue ;; esac
                uid=''
                while read -r word real _; do
                    [ "$word" != Uid: ] || { uid=$real && break; }
                done 2>/dev/null <"/proc/$pid/status"
                { read -r stat <"/proc/$pid/stat"; } 2>/dev/null || continue
                name=${stat#*\(} name=${name%\)*}
                # shellcheck disable=SC2086
                set -- ${stat##*) }
                [ $# -lt 20 ] || printf 'holder\t%s %s %s %s %s\n' "$inode" "$pid" "${uid:--}" "${20}" "$name"
                ;;
        esac
    done
}
main
