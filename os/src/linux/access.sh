# What a reservation has put into a guest, and how it is taken out again. A part of every script that does either.
#
# The ledger says what is ours, for root alone. A line stands in it before the thing is there.
#
#   accounts      NAME UID HOME KIND    `made`; `home-kept`, whose home was there before; `foreign`, one of a directory
#   services      NAME                  was not running before
#   methods       NAME PORT
#   managers      ADDRESS               where vcld has come from
#   passwords     NAME                  may log in with one
#   keys/NAME     the ssh keys of ours that stand in the account's file
#   hooks/        what was run, with NAME.env, its environment; each is run again with `undo`
#   firewall      which one has our rules
#   rules         those rules
#   at-boot       what brings rules and services back after a reboot, and the files that it reads
LEDGER=/var/lib/vcld/access
USER_DATA_FILE=/etc/vcld/user-data
UNIT=/etc/systemd/system/vcld-access.service
UNIT_WANTED=/etc/systemd/system/multi-user.target.wants/vcld-access.service
SSHD_DROP_IN=/etc/ssh/sshd_config.d/00-vcld-access.conf

# Whether a file system of that type is another machine's.
of_another_machine() {
    case $1 in
        nfs* | cifs | smb* | fuse | fuse.* | ceph | glusterfs | lustre | afs | 9p | virtiofs | gpfs | beegfs) return 0 ;;
        *) return 1 ;;
    esac
}

# file_system_of PATH [at]: puts into fs_type and fs_source what the path lies on; with `at` also what is mounted at the path
# itself. Its last part is not followed if it is a link.
file_system_of() {
    m_path=$(cd -P "$ROOT${1%/*}/" 2>/dev/null && pwd -P) || m_path=$ROOT${1%/*}
    m_path=${m_path#"$ROOT"} m_path=${m_path%/}/${1##*/}
    fs_type='' fs_source='' m_length=-1
    [ -r "$ROOT/proc/mounts" ] || return 0
    while read -r m_source m_dir m_type _; do
        [ "$m_dir" != / ] || m_dir=''
        case $m_path in
            "$m_dir"/*) ;;
            "$m_dir") [ "${2-}" = at ] || continue ;;
            *) continue ;;
        esac
        # What is mounted later at the same place covers what was there.
        [ ${#m_dir} -lt "$m_length" ] || { fs_type=$m_type fs_source=$m_source m_length=${#m_dir}; }
    done <"$ROOT/proc/mounts"
}

# Whether a path lies on a disk of this machine.
is_here() {
    file_system_of "$1" at
    ! of_another_machine "$fs_type" && [ "$fs_type" != autofs ]
}

# delete PATH: that and all that is below it, and nothing of a file system that is mounted there. A file that somebody else
# removes at the same time is no error.
delete() {
    for _ in 1 2 3; do
        find "$1" -xdev -delete 2>/dev/null
        [ -e "$1" ] || [ -L "$1" ] || return 0
    done
    find "$1" -xdev -delete
}

have() { command -v "$1" >/dev/null 2>&1; }

# in_ledger FILE NAME: the line that begins with that word.
in_ledger() {
    [ -f "$LEDGER/$1" ] || return 1
    while read -r l_name l_rest; do
        [ "$l_name" != "$2" ] || { printf '%s %s\n' "$l_name" "$l_rest" && return 0; }
    done <"$LEDGER/$1"
    return 1
}

# to_ledger FILE NAME [REST]: puts a line in the place of the one that begins with that word; `-` takes it out.
to_ledger() {
    l_text=''
    if [ -f "$LEDGER/$1" ]; then
        while read -r l_name l_rest; do
            [ "$l_name" = "$2" ] || l_text="$l_text$l_name${l_rest:+ $l_rest}
"
        done <"$LEDGER/$1"
    fi
    [ "${3-}" = - ] || l_text="$l_text$2${3:+ $3}
"
    printf %s "$l_text" >"$LEDGER/$1.new" && mv -f "$LEDGER/$1.new" "$LEDGER/$1" || fail "cannot write $LEDGER/$1"
}

# Every socket that listens.
listening() {
    for w_file in /proc/net/tcp /proc/net/tcp6; do
        [ -r "$w_file" ] || continue
        while read -r _ w_local _ w_state _ _ _ _ _ w_inode _; do
            [ "$w_state" != 0A ] || printf '%s %s\n' "$w_local" "$w_inode"
        done <"$w_file"
    done
}

# A server that is told to read its configuration anew goes on with the old one for a moment. It is done when it listens
# again, which shows by new sockets.
reload_ssh_server() {
    w_before=$(listening) w_round=0
    tell_ssh_server
    while [ "$w_round" -lt 50 ]; do
        w_now=$(listening)
        [ "$w_now" = "$w_before" ] || [ "$(printf '%s\n' "$w_now" | wc -l)" -lt "$(printf '%s\n' "$w_before" | wc -l)" ] || return 0
        w_round=$((w_round + 1))
        sleep 0.1 2>/dev/null || sleep 1
    done
    return 0
}

tell_ssh_server() {
    if [ -d /run/systemd/system ]; then
        for unit in ssh.service sshd.service; do
            if systemctl --quiet is-active "$unit"; then
                systemctl reload "$unit" && return 0
                systemctl restart "$unit" && return 0
            fi
        done
        # Started for each connection by a socket: the next one reads what is new.
        for unit in ssh.socket sshd.socket; do
            systemctl --quiet is-active "$unit" && w_round=50 && return 0
        done
    fi
    for file in /run/sshd.pid /var/run/sshd.pid; do
        [ -f "$file" ] && read -r pid <"$file" && kill -HUP "$pid" && return 0
    done
    for name in ssh sshd; do
        [ -x "/etc/init.d/$name" ] && "/etc/init.d/$name" restart >/dev/null 2>&1 && return 0
    done
    fail "cannot tell its ssh server of what is new"
}

# service DO NAME, where DO is running, start or stop.
service_of() {
    if [ -d /run/systemd/system ]; then
        case $1 in
            running) systemctl --quiet is-active "$2" ;;
            *) systemctl "$1" "$2" ;;
        esac
    elif have rc-service; then
        case $1 in
            running) rc-service "$2" status ;;
            *) rc-service "$2" "$1" ;;
        esac
    elif [ -x "/etc/init.d/$2" ]; then
        case $1 in
            running) "/etc/init.d/$2" status ;;
            *) "/etc/init.d/$2" "$1" ;;
        esac
    else
        return 1
    fi </dev/null >/dev/null 2>&1
}

# Ends all that runs as a user. Whoever forks faster than this is met again in the next round.
end_account() {
    e_round=0 e_left=yes
    while [ -n "$e_left" ]; do
        e_left=''
        for e_dir in /proc/[0-9]*; do
            e_uid='' e_state=''
            while read -r e_word e_real e_eff _; do
                case $e_word in
                    State:) e_state=$e_real ;;
                    Uid:) e_uid="$e_real $e_eff" && break ;;
                esac
            done 2>/dev/null <"$e_dir/status"
            # One that is dead and not yet looked at runs no more.
            case $e_state in Z | X) continue ;; esac
            case " $e_uid " in *" $1 "*) ;; *) continue ;; esac
            e_left=yes
            kill -KILL "${e_dir#/proc/}" 2>/dev/null && changed process "${e_dir#/proc/} of $2"
        done
        e_round=$((e_round + 1))
        [ "$e_round" -le 60 ] || fail "processes of $2 do not end"
        [ "$e_round" -le 10 ] || sleep 1
    done
    if [ -d "/sys/fs/cgroup/user.slice/user-$1.slice" ] && [ -d /run/systemd/system ]; then
        systemctl stop "user@$1.service" "user-$1.slice" >/dev/null 2>&1
    fi
    return 0
}

# Whatever is mounted at or below a directory is another's, and is not to be deleted with it.
unmount_below() {
    u_round=0
    while [ "$u_round" -lt 50 ]; do
        u_found=''
        while read -r _ u_dir _; do
            case $u_dir in "$1" | "$1"/*) u_found=$u_dir ;; esac
        done </proc/mounts
        [ -n "$u_found" ] || return 0
        u_path=$(printf '%b' "$(printf %s "$u_found" | sed 's/\\\([0-7][0-7][0-7]\)/\\0\1/g')")
        umount "$u_path" 2>/dev/null || umount -l "$u_path" 2>/dev/null || break
        changed 'mounted file system' "$u_path"
        u_round=$((u_round + 1))
    done
    fail "$u_found is mounted and cannot be unmounted; nothing of $1 was deleted"
}

# Nobody logs in to it any more, while the rest of it is taken away.
lock_account() {
    rm -f "/etc/sudoers.d/vcld-$1"
    if have usermod; then usermod -p '*' -e 1 "$1" 2>/dev/null; elif have passwd; then passwd -l "$1" >/dev/null 2>&1; fi
    return 0
}

# home_stays HOME KIND: whether a home is not to be deleted: it was there before, or is a file server's, or is that of an
# account of a directory and not on the disk of the system.
home_stays() {
    case $2 in *-kept) return 0 ;; esac
    file_system_of "$1"
    if of_another_machine "$fs_type" || [ "$fs_type" = autofs ]; then return 0; fi
    [ "$2" = foreign ] || return 1
    h_source=$fs_source
    file_system_of /.
    [ "$h_source" != "$fs_source" ]
}

# What is done in a person's home is done as that person: root would follow his links.
TAKE_KEYS='
umask 077
cd "$HOME" && [ -f .ssh/authorized_keys ] && grep -q "^# vcld begins$" .ssh/authorized_keys || exit 0
sed "/^# vcld begins$/,/^# vcld ends$/d" .ssh/authorized_keys >.ssh/.authorized_keys.new &&
    mv -f .ssh/.authorized_keys.new .ssh/authorized_keys
'

# take_keys NAME HOME KIND: takes our keys out of a home that stays, as long as its account may do anything.
take_keys() {
    [ -f "$LEDGER/keys/$1" ] && home_stays "$2" "$3" || return 0
    # His own doing if it fails; nobody can log in to it any more all the same.
    su -s /bin/sh "$1" -c "$TAKE_KEYS" >/dev/null 2>&1 </dev/null ||
        printf 'note\t%s\n' "the ssh keys of the reservation could not be taken out of $2"
    rm -f "$LEDGER/keys/$1"
}

# sweep UID DIRECTORY…: removes what is somebody's in places that are for everybody. What he has built elsewhere is meant to
# be there.
sweep() {
    s_uid=$1
    shift
    for s_dir do
        s_dir=$(cd -P "$s_dir" 2>/dev/null && pwd -P) && is_here "$s_dir" || continue
        find "$s_dir" -xdev -uid "$s_uid" ! -type d -exec rm -f -- {} + 2>/dev/null
        find "$s_dir" -xdev -depth -uid "$s_uid" -type d -exec rmdir -- {} \; 2>/dev/null
    done
}

# remove_account NAME UID HOME KIND
remove_account() {
    if [ "$2" != - ]; then
        end_account "$2" "$1"
    fi
    if [ "$4" = made ] && grep -q "^$1:" /etc/passwd; then
        if have userdel; then
            # It complains of a mailbox and of groups; what counts is whether the account is gone.
            userdel -f "$1" >/dev/null 2>&1
        else
            deluser "$1" >/dev/null 2>&1
        fi
        ! grep -q "^$1:" /etc/passwd || fail "cannot remove the account $1"
        changed account "$1"
    elif [ "$4" = home-kept ]; then
        { userdel -f "$1" || deluser "$1"; } >/dev/null 2>&1
        ! grep -q "^$1:" /etc/passwd || fail "cannot remove the account $1"
        changed account "$1"
    fi
    rm -f "/etc/sudoers.d/vcld-$1" "/etc/sudoers.d/.vcld-$1" "$LEDGER/keys/$1"
    # What a hook has mounted at the home is its undo's; what it has forgotten is taken off before anything is deleted.
    case $4 in made | foreign)
        if [ -e "$3" ] && [ ! -L "$3" ] && ! home_stays "$3" "$4"; then
            unmount_below "$3"
            delete "$3" || fail "cannot remove $3"
            changed home "$3"
        fi
        ;;
    esac
    for r_path in "/var/spool/cron/crontabs/$1" "/var/spool/cron/$1" "/var/mail/$1" "/var/spool/mail/$1" \
        "/var/lib/systemd/linger/$1" "/run/sudo/ts/$1" "/var/lib/sudo/ts/$1" "/var/lib/sudo/lectured/$1"; do
        [ ! -e "$r_path" ] || ! is_here "$r_path" || delete "$r_path"
    done
    for r_file in passwd shadow group gshadow subuid subgid; do
        r_file=/etc/$r_file-
        [ -f "$r_file" ] && grep -q "^$1:" "$r_file" && sed -i "/^$1:/d" "$r_file"
    done
    if [ "$2" != - ]; then
        sweep "$2" /tmp /var/tmp /dev/shm
        case $4 in foreign*) ;; *) sweep "$2" /run /var/spool ;; esac
        remove_ipc "$2"
    fi
    to_ledger passwords "$1" -
    to_ledger accounts "$1" -
}

# Memory and semaphores outlive who made them.
remove_ipc() {
    have ipcrm || return 0
    for i_kind in shm sem msg; do
        [ -r "/proc/sysvipc/$i_kind" ] || continue
        while read -r i_line; do
            # shellcheck disable=SC2086
            set -- "$1" $i_line
            case $i_kind in
                shm) i_uid=$9 i_option=-m ;;
                sem) i_uid=$6 i_option=-s ;;
                *) i_uid=$9 i_option=-q ;;
            esac
            [ "$i_uid" != "$1" ] || ipcrm $i_option "$3" 2>/dev/null
        done <"/proc/sysvipc/$i_kind"
    done
    return 0
}

# Each hook that was begun, the last first.
undo_hooks() {
    [ -d "$LEDGER/hooks" ] || return 0
    # The names are ours: letters, digits, `_`, `-` and dots.
    # shellcheck disable=SC2045
    for h_name in $(ls -r "$LEDGER/hooks"); do
        case $h_name in *.env | *.new) continue ;; esac
        h_file=$LEDGER/hooks/$h_name
        h_limit=''
        ! have timeout || h_limit='timeout -k 5 600'
        h_said=$(
            cd / || exit 125
            # shellcheck disable=SC1090
            [ ! -f "$h_file.env" ] || . "$h_file.env"
            export VCLD_STAGE=sanitize
            # shellcheck disable=SC2086
            $h_limit "$h_file" undo </dev/null 2>&1
        )
        h_status=$?
        [ "$h_status" -eq 0 ] ||
            fail "hook $h_name undo failed with status $h_status: $(printf %s "$h_said" | tail -n 5 | tr '\n' '/')"
        rm -f "$h_file" "$h_file.env"
        changed hook "$h_name"
    done
    return 0
}

remove_unit() {
    rm -f "$UNIT_WANTED" "$UNIT" "$LEDGER/at-boot" || fail "cannot remove $UNIT"
}

# Takes all of it away, whatever of it is there. Running it again finds nothing.
revoke_access() {
    [ -z "$ROOT" ] && [ -d "$LEDGER" ] || return 0
    if [ -f "$LEDGER/accounts" ]; then
        cp "$LEDGER/accounts" "$LEDGER/accounts.old"
        while read -r v_name v_uid v_home v_kind; do
            case $v_kind in foreign*) ;; *)
                take_keys "$v_name" "$v_home" "$v_kind"
                lock_account "$v_name"
                ;;
            esac
            rm -f "/etc/sudoers.d/vcld-$v_name"
            [ "$v_uid" = - ] || end_account "$v_uid" "$v_name"
        done <"$LEDGER/accounts.old"
    fi
    undo_hooks
    if [ -f "$LEDGER/accounts" ]; then
        while read -r v_name v_uid v_home v_kind; do
            remove_account "$v_name" "$v_uid" "$v_home" "$v_kind"
        done <"$LEDGER/accounts.old"
    fi
    if [ -f "$LEDGER/services" ]; then
        while read -r v_name; do
            service_of stop "$v_name" && changed service "$v_name"
        done <"$LEDGER/services"
    fi
    if [ -e "$SSHD_DROP_IN" ]; then
        rm -f "$SSHD_DROP_IN"
        reload_ssh_server
    fi
    if [ -e "$USER_DATA_FILE" ]; then
        rm -f "$USER_DATA_FILE"
        changed 'user data' "$USER_DATA_FILE"
    fi
    fw_remove
    remove_unit
    rm -rf "$LEDGER" || fail "cannot remove $LEDGER"
    changed 'record of access' "$LEDGER"
}
