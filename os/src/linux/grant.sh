# Makes a guest what a reservation says: its accounts, their keys and rights, its services, its firewall. Running it again
# with something else makes it that.
#
# DO           `accounts`, with `shut` before it or `open` after it, or `open` alone
# ACCOUNTS     a line each: NAME SUDO UID, with `yes` or `no`, and `-` where any will do
# KEYS_1 …     the ssh keys of the account on that line
# METHODS      a line each: NAME PORT
# SERVICES     services that have to run
# ENVIRONMENT  what hooks are told, as shell
# USER_DATA    base64, or empty
# FROM, ALLOW4, ALLOW6, KEEP4, KEEP6, PORTS   see firewall.sh; what vcld itself comes from is added here
# UNIT_TEXT    the unit that brings rules and services back when the guest is booted
# VCLD_PEER    where this very connection comes from, as sshd tells it

changed() { printf 'changed\t%s\t%s\n' "$1" "$2"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}
refuse() {
    printf '%s\n' "$*" >&2
    exit 4
}

new_account() {
    n_home=/home/$1 n_kind=made
    if grep -q "^$1:" /etc/passwd; then
        refuse "its image has an account $1 of its own; take it out of the image, or reserve under another name"
    fi
    if id -u "$1" >/dev/null 2>&1; then
        # A directory knows it. What is its own stays its own.
        n_kind=foreign n_home=$(getent passwd "$1" | cut -d: -f6)
        case $n_home in /?*) ;; *) n_home=/home/$1 ;; esac
        [ ! -e "$n_home" ] || n_kind=foreign-kept
        to_ledger accounts "$1" "$(id -u "$1") $n_home $n_kind"
        return 0
    fi
    [ ! -e "$n_home" ] || n_kind=home-kept
    # Its number is written down when all of it is there: until then it is gone through again.
    to_ledger accounts "$1" "- $n_home $n_kind"
}

make_account() {
    n_name=$1
    read -r _ n_uid n_home n_kind <<VCLD_LINE
$(in_ledger accounts "$1")
VCLD_LINE
    case $n_kind in foreign*) return 0 ;; esac
    grep -q "^$1:" /etc/passwd || {
        if [ "$3" != - ] && getent passwd "$3" >/dev/null 2>&1; then
            refuse "user id $3, which $1 is to have, is somebody else's in this guest"
        fi
        n_shell=/bin/sh
        [ ! -x /bin/bash ] || n_shell=/bin/bash
        if have useradd; then
            set -- "$1" "$2" "$3" -s "$n_shell" -p '*' -d "$n_home"
            [ "$3" = - ] || set -- "$@" -u "$3"
            if [ "$n_kind" = made ]; then set -- "$@" -m; else set -- "$@" -M; fi
            ! grep -q "^$1:" /etc/group || set -- "$@" -N
            shift 3
            n_said=$(useradd "$@" "$n_name" 2>&1) || fail "cannot make the account $n_name: $n_said"
        else
            if [ "$3" = - ]; then set -- "$1"; else set -- -u "$3" "$1"; fi
            adduser -D -s "$n_shell" -h "$n_home" "$@" >/dev/null 2>&1 || fail "cannot make the account $n_name"
        fi
        n_uid=-
    }
    [ "$n_uid" = - ] || return 0
    # Nobody can have been in it: it has no key yet. Whoever made it may have been cut off anywhere.
    have useradd || sed -i "s/^\($n_name\):[^:]*:/\1:*:/" /etc/shadow
    if [ "$n_kind" = made ]; then
        [ -d "$n_home" ] || mkdir "$n_home" || fail "cannot make $n_home"
        chmod 700 "$n_home" && chown "$n_name:$(id -g "$n_name")" "$n_home" || fail "cannot give $n_home to $n_name"
    fi
    to_ledger accounts "$n_name" "$(id -u "$n_name") $n_home $n_kind"
    changed account "$n_name"
}

# What is done in a person's home is done as that person: root would follow his links.
PUT_KEYS='
umask 077
cd "$HOME" && mkdir -p .ssh || exit 1
own=""
if [ -f .ssh/authorized_keys ]; then
    own=$(sed "/^# vcld begins$/,/^# vcld ends$/d" .ssh/authorized_keys)
fi
{ [ -z "$own" ] || printf "%s\n" "$own"; echo "# vcld begins"; cat; echo "# vcld ends"; } >.ssh/.authorized_keys.new &&
    mv -f .ssh/.authorized_keys.new .ssh/authorized_keys
'

# put_keys NAME KEYS
put_keys() {
    if [ -f "$LEDGER/keys/$1" ] && [ "$(cat "$LEDGER/keys/$1")" = "$2" ]; then
        return 0
    fi
    [ -f "$LEDGER/keys/$1" ] || [ -n "$2" ] || return 0
    read -r _ _ k_home k_kind <<VCLD_LINE
$(in_ledger accounts "$1")
VCLD_LINE
    # An account of a directory has its keys from there.
    case $k_kind in foreign*) return 0 ;; esac
    mkdir -p "$LEDGER/keys"
    if grep -q " $k_home " /proc/mounts; then
        # It is a file server's. A hook that mounted it brings the keys to where they are looked for.
        :
    else
        printf '%s\n' "$2" | su -s /bin/sh "$1" -c "$PUT_KEYS" >/dev/null || fail "cannot write the ssh keys of $1"
        # The first time nobody can have been in it.
        [ -f "$LEDGER/keys/$1" ] || ! have restorecon || restorecon -R "$k_home/.ssh" 2>/dev/null
    fi
    printf '%s\n' "$2" >"$LEDGER/keys/$1"
    changed 'set of ssh keys' "$1"
}

# put_sudo NAME SUDO
put_sudo() {
    s_file=/etc/sudoers.d/vcld-$1
    if [ "$2" != yes ]; then
        [ ! -e "$s_file" ] || { rm -f "$s_file" && changed 'sudo right' "$1"; }
        return 0
    fi
    have sudo || printf 'note\t%s\n' "$1 is to do everything, and there is no sudo in its image"
    [ ! -f "$s_file" ] || return 0
    mkdir -p /etc/sudoers.d
    # sudo reads no name that begins with a dot, so it never sees half of it.
    printf '%s ALL=(ALL:ALL) NOPASSWD: ALL\n' "$1" >"/etc/sudoers.d/.vcld-$1" && chmod 440 "/etc/sudoers.d/.vcld-$1" &&
        mv -f "/etc/sudoers.d/.vcld-$1" "$s_file" || fail "cannot write $s_file"
    changed 'sudo right' "$1"
}

grant_accounts() {
    g_wanted=' '
    while read -r g_name _; do
        [ -z "$g_name" ] || g_wanted="$g_wanted$g_name "
    done <<VCLD_LINES
$ACCOUNTS
VCLD_LINES
    if [ -f "$LEDGER/accounts" ]; then
        cp "$LEDGER/accounts" "$LEDGER/accounts.old"
        while read -r g_name g_uid g_home g_kind; do
            case $g_wanted in *" $g_name "*) continue ;; esac
            case $g_kind in foreign*) ;; *)
                take_keys "$g_name" "$g_home" "$g_kind"
                lock_account "$g_name"
                ;;
            esac
            remove_account "$g_name" "$g_uid" "$g_home" "$g_kind"
        done <"$LEDGER/accounts.old"
    fi
    g_n=0
    while read -r g_name g_sudo g_uid; do
        [ -n "$g_name" ] || continue
        g_n=$((g_n + 1))
        in_ledger accounts "$g_name" >/dev/null || new_account "$g_name" "$g_sudo" "$g_uid"
        make_account "$g_name" "$g_sudo" "$g_uid"
        eval "g_keys=\$KEYS_$g_n"
        # shellcheck disable=SC2154
        put_keys "$g_name" "$g_keys"
        put_sudo "$g_name" "$g_sudo"
    done <<VCLD_LINES
$ACCOUNTS
VCLD_LINES
    [ "$(cat "$LEDGER/environment" 2>/dev/null)" = "$ENVIRONMENT" ] || printf '%s\n' "$ENVIRONMENT" >"$LEDGER/environment"
    if [ -n "$USER_DATA" ]; then
        mkdir -p "${USER_DATA_FILE%/*}" && printf %s "$USER_DATA" | base64 -d >"$USER_DATA_FILE.new" &&
            chmod 644 "$USER_DATA_FILE.new" || fail "cannot write $USER_DATA_FILE"
        if cmp -s "$USER_DATA_FILE.new" "$USER_DATA_FILE"; then
            rm -f "$USER_DATA_FILE.new"
        else
            mv -f "$USER_DATA_FILE.new" "$USER_DATA_FILE" || fail "cannot write $USER_DATA_FILE"
            changed 'user data' "$USER_DATA_FILE"
        fi
    elif [ -e "$USER_DATA_FILE" ]; then
        rm -f "$USER_DATA_FILE"
        changed 'user data' "$USER_DATA_FILE"
    fi
}

grant_services() {
    if [ -f "$LEDGER/services" ]; then
        cp "$LEDGER/services" "$LEDGER/services.old"
        while read -r g_name; do
            case " $SERVICES " in *" $g_name "*) continue ;; esac
            service_of stop "$g_name" && changed service "$g_name"
            to_ledger services "$g_name" -
        done <"$LEDGER/services.old"
    fi
    for g_name in $SERVICES; do
        ! service_of running "$g_name" || continue
        to_ledger services "$g_name"
        service_of start "$g_name" || fail "cannot start the service $g_name; is it in the image?"
        changed service "$g_name"
    done
}

# Who manages this guest is never shut out of it. The port that he comes by is a way for users only if they are to have ssh:
# otherwise their keys would open it to the whole world.
keep_managers() {
    SSH_PORT=${VCLD_PEER-} SSH_PORT=${SSH_PORT##* }
    case $SSH_PORT in '' | *[!0-9]*) SSH_PORT=22 ;; esac
    g_peer=${VCLD_PEER-} g_peer=${g_peer%% *}
    case $g_peer in
        ::ffff:*.*) g_peer=${g_peer#::ffff:} ;;
        *%*) g_peer=${g_peer%%%*} ;;
    esac
    case $g_peer in
        '' | *[!0-9a-fA-F.:]*) ;;
        *) in_ledger managers "$g_peer" >/dev/null || to_ledger managers "$g_peer" ;;
    esac
    case " $PORTS " in *" $SSH_PORT "*) SSH_PORT='' ;; esac
    [ -s "$LEDGER/managers" ] || { SSH_PORT='' && return 0; }
    while read -r g_peer; do
        case $g_peer in
            *:*) ALLOW6="$ALLOW6 $g_peer" KEEP6="$KEEP6 $g_peer" ;;
            *) ALLOW4="$ALLOW4 $g_peer" KEEP4="$KEEP4 $g_peer" ;;
        esac
    done <"$LEDGER/managers"
}

# A user may reboot his machine. firewalld and ufw bring their rules back; ours and the services are brought back by a unit.
stay_over_boots() {
    t_text=''
    [ ! -f "$LEDGER/at-boot.firewall" ] || t_text=$(cat "$LEDGER/at-boot.firewall")
    if [ -f "$LEDGER/services" ]; then
        while read -r t_name; do t_text="$t_text
systemctl --no-block start $t_name"; done <"$LEDGER/services"
    fi
    if [ -z "$t_text" ]; then
        remove_unit
    elif [ "$(cat "$LEDGER/at-boot" 2>/dev/null)" != "$t_text" ] || [ ! -L "$UNIT_WANTED" ]; then
        printf '%s\n' "$t_text" >"$LEDGER/at-boot" || fail "cannot write $LEDGER/at-boot"
        # Elsewhere the next grant finds that they are gone.
        [ -d /run/systemd/system ] || return 0
        printf '%s\n' "$UNIT_TEXT" >"$UNIT.new" && chmod 644 "$UNIT.new" && mv -f "$UNIT.new" "$UNIT" &&
            mkdir -p "${UNIT_WANTED%/*}" && ln -sf "$UNIT" "$UNIT_WANTED" || fail "cannot write $UNIT"
    fi
}

# Where hooks have to run before anybody comes, the ports are shut before there is an account. Whoever was let in by an earlier
# grant is not cut off by the next.
shut_first() {
    [ ! -s "$LEDGER/rules" ] || return 0
    # What is said here of whom to let in goes no further.
    (
        # shellcheck disable=SC2034
        FROM=nobody ALLOW4=$KEEP4 ALLOW6=$KEEP6
        keep_managers
        [ -z "$PORTS$SSH_PORT" ] || fw_open
    ) || exit
}

main() {
    umask 077
    mkdir -p "$LEDGER" && chmod 700 "$LEDGER" || fail "cannot make $LEDGER"
    case $DO in *shut*) shut_first ;; esac
    case $DO in *accounts*)
        grant_accounts
        printf '%s\n' "$METHODS" >"$LEDGER/methods"
        grant_services
        ;;
    esac
    case $DO in *open*)
        keep_managers
        if [ -n "$PORTS$SSH_PORT" ]; then fw_open; else fw_remove; fi
        ;;
    esac
    # A hook may boot it.
    case $DO in *open* | *shut*) stay_over_boots ;; esac
}
main
