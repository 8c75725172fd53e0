# Takes a user's traces off a machine that goes on to the next one as it is: ends what runs, and removes what shells,
# programs and cron keep. What a reservation put there goes by the ledger (access.sh), homes included. Files in the image's
# own homes stay: whoever wants them gone loads the machine anew.
#
# ROOT  in front of every path: empty for the running system
# SELF  the account that vcld is logged in with; its processes go on

changed() { printf 'changed\t%s\t%s\n' "$1" "${2#"$ROOT"}"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

drop() {
    what=$1
    shift
    for path do
        # What is another machine's is not this one's to clean.
        if { [ -e "$path" ] || [ -L "$path" ]; } && is_here "${path#"$ROOT"}"; then
            changed "$what" "$path"
            delete "$path" || fail "cannot remove $path"
        fi
    done
}

# Whoever hangs on a terminal, and whatever runs as a user. Root's other processes are the system's.
end_processes() {
    [ -z "$ROOT" ] || return 0
    self=$(id -u "$SELF") || fail "there is no account $SELF"
    for dir in /proc/[0-9]*; do
        uid=''
        while read -r word real _; do
            [ "$word" != Uid: ] || { uid=$real && break; }
        done 2>/dev/null <"$dir/status"
        { read -r stat <"$dir/stat"; } 2>/dev/null || continue
        name=${stat#*\(} name=${name%\)*}
        # shellcheck disable=SC2086
        set -- ${stat##*) }
        # One whose name has a line end in it goes by whose it is.
        [ $# -ge 5 ] || set -- - - - - 0
        case $((($5 >> 8) & 4095)) in 136 | 137 | 138 | 139 | 140 | 141 | 142 | 143) pts=yes ;; *) pts='' ;; esac
        [ -n "$uid" ] || continue
        if [ -n "$pts" ] || { [ "$uid" -ge 1000 ] && [ "$uid" -lt 65534 ] && [ "$uid" -ne "$self" ]; }; then
            kill -KILL "${dir#/proc/}" 2>/dev/null && changed process "${dir#/proc/} ($name)"
        fi
    done
    return 0
}

main() {
    revoke_access
    end_processes
    while IFS=: read -r user _ uid _ _ home _; do
        case $home in /?*) ;; *) continue ;; esac
        [ "$uid" -eq 0 ] || { [ "$uid" -ge 1000 ] && [ "$uid" -lt 65534 ]; } || continue
        dir=$ROOT$home
        for name in .bash_history .zsh_history .zhistory .ash_history .sh_history .ksh_history .history \
            .local/share/fish/fish_history .python_history .mysql_history .mariadb_history .psql_history .sqlite_history \
            .rediscli_history .node_repl_history .lesshst .viminfo .wget-hsts; do
            drop 'shell history' "$dir/$name"
        done
        drop 'X authority' "$dir/.Xauthority" "$dir/.xsession-errors"
        drop 'known hosts' "$dir/.ssh/known_hosts" "$dir/.ssh/known_hosts.old"
        [ "$uid" -eq 0 ] || drop 'cron table' "$ROOT/var/spool/cron/crontabs/$user" "$ROOT/var/spool/cron/$user"
    done <"$ROOT/etc/passwd"
    for path in "$ROOT"/tmp/* "$ROOT"/tmp/.[!.]* "$ROOT"/var/tmp/* "$ROOT"/var/tmp/.[!.]* "$ROOT"/dev/shm/*; do
        case $path in */systemd-private-* | */tmp/.X11-unix | */tmp/.ICE-unix) ;; *) drop 'temporary file' "$path" ;; esac
    done
    drop 'job for later' "$ROOT"/var/spool/cron/atjobs/* "$ROOT"/var/spool/at/[a-z]0*
    drop mailbox "$ROOT"/var/mail/* "$ROOT"/var/spool/mail/*
    drop 'record of lingering' "$ROOT"/var/lib/systemd/linger/*
}
main
