# Takes everything out of a Linux guest that must not be in two machines, except what `finish.sh` takes last.
#
# Prints `changed<TAB>what<TAB>where` for each thing that it changes and nothing for what is as it should be, so that a
# second run prints nothing; `keep<TAB>what` for what stays and might surprise; `note<TAB>what` for what needs a look.
#
# ROOT     in front of every path: empty for the running system, a directory for a file system that is mounted there
# DRY      when it is not empty, nothing is changed and what `finish.sh` would change is told as well
# FIRST_BOOT, FIRST_BOOT_UNIT, HOST_KEYS_UNIT, SYSV, OPENRC   the files that make a new identity at boot
#
# What is listed in the guest's /etc/vcld/keep (a path or a pattern a line) is left alone, and so is whatever lies on a
# file system of another machine. Accounts and their authorized_keys are kept.

newline='
'

changed() { printf 'changed\t%s\t%s\n' "$1" "${2#"$ROOT"}"; }
keep() { printf 'keep\t%s\n' "$1"; }
note() { printf 'note\t%s\n' "$1"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# What /etc/vcld/keep and /proc/mounts say, a line each.
read_rules() {
    KEEP='' FOREIGN='' MOUNTS='' ZFS=''
    if [ -f "$ROOT/etc/vcld/keep" ]; then
        while IFS= read -r line || [ -n "$line" ]; do
            case $line in /*) KEEP=$KEEP${line%/}$newline ;; esac
        done <"$ROOT/etc/vcld/keep"
    fi
    [ -r "$ROOT/proc/mounts" ] || return 0
    while read -r _ dir type _; do
        MOUNTS=$MOUNTS$dir$newline
        ! of_another_machine "$type" || FOREIGN=$FOREIGN$dir$newline
        case $type in
            tmpfs | ramfs)
                # Not on the disk, so not in the image.
                case $dir in /tmp | /var/tmp) FOREIGN=$FOREIGN$dir$newline ;; esac
                ;;
            zfs) [ "$dir" != / ] || ZFS=yes ;;
        esac
    done <"$ROOT/proc/mounts"
}

# Whether a path is to be left alone. Its names are its own: a shell's variables are everybody's.
kept() {
    kept_place=${1#"$ROOT"}
    kept_so=1
    set -f
    IFS=$newline
    for kept_by in $KEEP; do
        # The pattern is one: no quotes.
        # shellcheck disable=SC2254
        case $kept_place in $kept_by | $kept_by/*) kept_so=0 ;; esac
    done
    for kept_by in $FOREIGN; do
        case $kept_place in "$kept_by" | "$kept_by"/*) kept_so=0 ;; esac
    done
    for kept_by in $MOUNTS; do
        case $kept_by in "$kept_place" | "$kept_place"/*) kept_so=0 ;; esac
    done
    unset IFS
    set +f
    return $kept_so
}

# drop WHAT PATH…: removes what is there, a link itself and not what it points to.
drop() {
    what=$1
    shift
    for path do
        shift
        if { [ -e "$path" ] || [ -L "$path" ]; } && ! kept "$path"; then
            changed "$what" "$path"
            set -- "$@" "$path"
        fi
    done
    [ $# -eq 0 ] || [ -n "$DRY" ] || rm -rf -- "$@" || fail "cannot remove $*"
}

# blank WHAT FILE…: empties files that are not.
blank() {
    what=$1
    shift
    for path do
        if [ -f "$path" ] && [ ! -L "$path" ] && [ -s "$path" ] && ! kept "$path"; then
            [ -n "$DRY" ] || : >"$path" || fail "cannot empty $path"
            changed "$what" "$path"
        fi
    done
}

# put WHAT FILE MODE TEXT: writes a file, by way of a name beside it, unless it says so already.
put() {
    if [ -f "$2" ] && [ "$(cat "$2")" = "$4" ] || kept "$2"; then
        return 0
    fi
    if [ -z "$DRY" ]; then
        mkdir -p "${2%/*}" && printf '%s\n' "$4" >"$2.vcld-new" && chmod "$3" "$2.vcld-new" && mv -f "$2.vcld-new" "$2" ||
            fail "cannot write $2"
    fi
    changed "$1" "$2"
}

# edit WHAT FILE COMMAND…: replaces a file by what the command makes of it.
edit() {
    what=$1 path=$2
    shift 2
    if [ ! -f "$path" ] || kept "$path"; then
        return 0
    fi
    old=$(cat "$path" && echo .) && new=$("$@" "$path" && echo .) || fail "cannot read $path"
    [ "$old" != "$new" ] || return 0
    if [ -z "$DRY" ]; then
        cp -p "$path" "$path.vcld-new" && printf %s "${new%.}" >"$path.vcld-new" && mv -f "$path.vcld-new" "$path" ||
            fail "cannot write $path"
    fi
    changed "$what" "$path"
}

# Who is logged in would write his history when the machine goes down.
end_sessions() {
    [ -z "$ROOT$DRY" ] || return 0
    for file in /proc/[0-9]*/stat; do
        { read -r stat <"$file"; } 2>/dev/null || continue
        name=${stat#*\(} name=${name%\)*}
        # State, parent, group, session, terminal.
        # shellcheck disable=SC2086
        set -- ${stat##*) }
        case $((($5 >> 8) & 4095)) in
            136 | 137 | 138 | 139 | 140 | 141 | 142 | 143) ;;
            4) case $name in *sh) ;; *) continue ;; esac ;;
            *) continue ;;
        esac
        kill -KILL "${stat%% *}" 2>/dev/null && changed 'login session' "${stat%% *} ($name)"
    done
    return 0
}

init_system() {
    case $(readlink "$ROOT/sbin/init" 2>/dev/null) in *systemd*) echo systemd && return ;; esac
    if [ -z "$ROOT" ] && [ -d /run/systemd/system ]; then
        echo systemd
    elif [ -e "$ROOT/sbin/openrc-run" ]; then
        echo openrc
    elif [ -d "$ROOT/etc/init.d" ]; then
        echo sysv
    fi
}

# link WHERE TO: a link that a package manager would have made.
link() {
    if [ ! -L "$1" ] && ! kept "$1"; then
        [ -n "$DRY" ] || { mkdir -p "${1%/*}" && ln -s "$2" "$1"; } || fail "cannot link $1"
        changed 'first-boot unit' "$1"
    fi
}

# From here on a copy of this disk makes itself a new identity when it boots, whatever becomes of this run: that is why
# it comes first, and why what is removed later is removed for tidiness' sake and not for safety's.
arm_first_boot() {
    case $(init_system) in
        systemd)
            units=/etc/systemd/system
            put 'first-boot unit' "$ROOT$units/vcld-first-boot.service" 644 "$FIRST_BOOT_UNIT"
            put 'first-boot unit' "$ROOT$units/vcld-host-keys.service" 644 "$HOST_KEYS_UNIT"
            link "$ROOT$units/sysinit.target.wants/vcld-first-boot.service" $units/vcld-first-boot.service
            link "$ROOT$units/multi-user.target.wants/vcld-host-keys.service" $units/vcld-host-keys.service
            ;;
        openrc)
            put 'first-boot unit' "$ROOT/etc/init.d/vcld-first-boot" 755 "$OPENRC"
            link "$ROOT/etc/runlevels/default/vcld-first-boot" /etc/init.d/vcld-first-boot
            ;;
        sysv)
            put 'first-boot unit' "$ROOT/etc/init.d/vcld-first-boot" 755 "$SYSV"
            link "$ROOT/etc/rcS.d/S99vcld-first-boot" ../init.d/vcld-first-boot
            ;;
        *) fail "its init system is none of systemd, OpenRC and System V: nothing would make a copy an identity of its own" ;;
    esac
    put 'first-boot unit' "$ROOT/usr/local/lib/vcld/first-boot" 755 "$FIRST_BOOT"

    boot=offline id=''
    if [ -z "$ROOT" ]; then
        read -r boot </proc/sys/kernel/random/boot_id
    fi
    flag="boot $boot"
    if [ -s "$ROOT/etc/machine-id" ] && ! kept "$ROOT/etc/machine-id"; then
        read -r id <"$ROOT/etc/machine-id"
        flag="$flag${newline}machine-id $id"
        [ -z "$DRY" ] || changed machine-id "$ROOT/etc/machine-id"
    fi
    for path in "$ROOT"/etc/ssh/ssh_host_*_key; do
        if [ -f "$path" ] && ! kept "$path"; then
            type=${path##*/ssh_host_} type=${type%_key}
            flag="$flag${newline}key $type"
            [ -z "$DRY" ] || changed 'ssh host key' "$path"
        fi
    done
    [ -n "$DRY" ] || put 'first-boot flag' "$ROOT/var/lib/vcld/first-boot" 600 "$flag"
}

seeds_and_secrets() {
    drop 'random seed' "$ROOT/var/lib/systemd/random-seed" "$ROOT/var/lib/urandom/random-seed" \
        "$ROOT/var/lib/random-seed" "$ROOT/var/lib/misc/random-seed" "$ROOT"/var/lib/seedrng/* \
        "$ROOT/boot/loader/random-seed" "$ROOT/boot/efi/loader/random-seed" "$ROOT/efi/loader/random-seed"
    drop 'systemd credential secret' "$ROOT/var/lib/systemd/credential.secret"
    if [ -f "$ROOT/var/lib/dbus/machine-id" ] && [ ! -L "$ROOT/var/lib/dbus/machine-id" ] &&
        ! kept "$ROOT/var/lib/dbus/machine-id"; then
        [ -n "$DRY" ] || ln -sf /etc/machine-id "$ROOT/var/lib/dbus/machine-id" || fail "cannot link D-Bus' machine-id"
        changed 'D-Bus machine-id' "$ROOT/var/lib/dbus/machine-id"
    fi
    drop 'NetworkManager secret key' "$ROOT/var/lib/NetworkManager/secret_key"
    if [ -n "$ZFS" ]; then
        [ ! -e "$ROOT/etc/hostid" ] || keep 'the host id: the root file system is on a pool that knows it'
    else
        drop 'host id' "$ROOT/etc/hostid"
    fi
    drop 'NVMe host name' "$ROOT/etc/nvme/hostnqn" "$ROOT/etc/nvme/hostid"
    if [ -e "$ROOT/usr/lib/open-iscsi/startup-checks.sh" ] || [ -e "$ROOT/lib/open-iscsi/startup-checks.sh" ]; then
        [ ! -e "$ROOT/etc/iscsi/initiatorname.iscsi" ] ||
            put 'iSCSI initiator name' "$ROOT/etc/iscsi/initiatorname.iscsi" 600 GenerateName=yes
    else
        drop 'iSCSI initiator name' "$ROOT/etc/iscsi/initiatorname.iscsi"
    fi
}

leases() {
    drop 'DHCP lease' "$ROOT"/var/lib/dhcp/*lease* "$ROOT"/var/lib/dhcp3/*lease* "$ROOT"/var/lib/dhclient/* \
        "$ROOT"/var/lib/dhcpcd/*lease* "$ROOT"/var/lib/dhcpcd5/*lease* "$ROOT"/var/lib/NetworkManager/*lease* \
        "$ROOT"/var/lib/systemd/network/* "$ROOT"/var/lib/wicked/*lease* "$ROOT"/var/lib/udhcpc/*
    drop 'DHCP client id' "$ROOT/etc/dhcpcd.duid" "$ROOT/etc/dhcpcd.secret" "$ROOT/var/lib/dhcpcd/duid" \
        "$ROOT/var/lib/dhcpcd/secret" "$ROOT/var/lib/dhcpv6/dhcp6c_duid" "$ROOT/var/db/dhcpcd/duid" \
        "$ROOT/var/lib/wicked/duid.xml" "$ROOT/var/lib/wicked/iaid.xml"
    drop 'NetworkManager trace' "$ROOT/var/lib/NetworkManager/timestamps" "$ROOT/var/lib/NetworkManager/seen-bssids"
}

cloud_init() {
    for path in "$ROOT"/var/lib/cloud/* "$ROOT/run/cloud-init"; do
        case $path in */seed) ;; *) drop 'cloud-init state' "$path" ;; esac
    done
}

# netplan: an interface that is matched by its MAC alone is matched by being an Ethernet instead; a MAC that is set is
# not set any more.
# shellcheck disable=SC2016
NETPLAN='
function indent(s) { match(s, /^ */); return RLENGTH }
{ line[NR] = $0 }
END {
    inside = -1
    for (i = 1; i <= NR; i++) {
        s = line[i]
        if (s !~ /^ *(#|$)/ && inside >= 0 && indent(s) <= inside) inside = -1
        if (s ~ /^ *match: *(#.*)?$/) {
            inside = indent(s); other = 0
            for (j = i + 1; j <= NR && (line[j] ~ /^ *(#|$)/ || indent(line[j]) > inside); j++)
                if (line[j] ~ /^ *(name|driver|path):/) other = 1
        }
        if (s ~ /^ *macaddress:/) {
            was = s; sub(/^ */, "", was)
            pad = substr(s, 1, indent(s))
            if (inside >= 0 && !other) print pad "name: \"e*\""
            print pad "# vcld: was " was
        } else if (s ~ /^ *match: *\{ *macaddress:[^,}]*\}/) {
            was = s; sub(/^ */, "", was)
            pad = substr(s, 1, indent(s))
            sub(/\{ *macaddress:[^,}]*\}/, "{name: \"e*\"}", s)
            print s
            print pad "# vcld: was " was
        } else print s
    }
}'

# Whatever ties the network's configuration to the MAC of this machine. The old line stays as a comment.
pinned_macs() {
    drop 'persistent interface name' "$ROOT/etc/udev/rules.d/70-persistent-net.rules" \
        "$ROOT/etc/udev/rules.d/z25_persistent-net.rules" "$ROOT/etc/udev/rules.d/30-net_persistent_names.rules"
    pinned=0
    for path in "$ROOT"/etc/systemd/network/*.link "$ROOT"/etc/systemd/network/*.network; do
        [ -f "$path" ] || continue
        ! grep -q '^ *\(Permanent\)\{0,1\}MACAddress *=' "$path" || pinned=$((pinned + 1))
        edit 'pinned MAC' "$path" sed \
            -e '/^ *\[Match\]/,/^ *\[/ s/^ *\(\(Permanent\)\{0,1\}MACAddress *=.*\)$/Type=ether\
# vcld: was \1/' \
            -e 's/^ *\(MACAddress *=.*\)$/# vcld: was \1/'
    done
    for path in "$ROOT"/etc/netplan/*.yaml "$ROOT"/etc/netplan/*.yml; do
        [ -f "$path" ] || continue
        pinned=$((pinned + $(grep -c '^ *macaddress:' "$path")))
        edit 'pinned MAC' "$path" awk "$NETPLAN"
    done
    for path in "$ROOT/etc/network/interfaces" "$ROOT"/etc/network/interfaces.d/*; do
        edit 'pinned MAC' "$path" sed 's/^\([[:space:]]*\)\(hwaddress[[:space:]].*\)$/\1# vcld: was \2/'
    done
    for path in "$ROOT"/etc/NetworkManager/system-connections/*; do
        edit 'pinned MAC' "$path" sed 's/^\(\(cloned-\)\{0,1\}mac-address=[0-9A-Fa-f][0-9A-Fa-f]:.*\)$/# vcld: was \1/'
    done
    for path in "$ROOT"/etc/sysconfig/network-scripts/ifcfg-* "$ROOT"/etc/sysconfig/network/ifcfg-*; do
        edit 'pinned MAC' "$path" sed 's/^\([[:space:]]*\)\(\(HWADDR\|MACADDR\|LLADDR\)=.*\)$/\1# vcld: was \2/'
    done
    [ "$pinned" -lt 2 ] || note "$pinned interfaces were told apart by their MACs: see which is which in a loaded copy"
}

logs() {
    [ -d "$ROOT/var/log" ] || return 0
    if [ -z "$ROOT$DRY" ] && [ -d /run/systemd/system ]; then
        # From now on to /run, or the end of this boot would be in the image; an old journald does not know how.
        journalctl --relinquish-var >/dev/null 2>&1 || journalctl --rotate >/dev/null 2>&1
    fi
    drop journal "$ROOT"/var/log/journal/*
    # A name with a newline looks like two; the second is a path of its own only if it begins like one of these.
    find "$ROOT/var/log" -path "$ROOT/var/log/journal" -prune -o -type f -print 2>/dev/null | while IFS= read -r path; do
        case $path in
            "$ROOT"/var/log/*.gz | "$ROOT"/var/log/*.xz | "$ROOT"/var/log/*.bz2 | "$ROOT"/var/log/*.zst | \
                "$ROOT"/var/log/*.[0-9] | "$ROOT"/var/log/*.[0-9][0-9] | "$ROOT"/var/log/*.old | \
                "$ROOT"/var/log/*-20[0-9][0-9][0-9][0-9][0-9][0-9]) drop 'old log' "$path" ;;
            "$ROOT"/var/log/*) blank log "$path" ;;
        esac
    done || exit 1
    drop 'login record' "$ROOT/var/lib/lastlog/lastlog2.db" "$ROOT/var/lib/wtmpdb/wtmp.db"
}

histories() {
    while IFS=: read -r user _ uid _ _ home shell; do
        case $home in /?*) ;; *) continue ;; esac
        [ "$uid" -eq 0 ] || [ "$uid" -ge 1000 ] || continue
        dir=$ROOT$home
        [ -d "$dir" ] || continue
        for name in .bash_history .zsh_history .zhistory .ash_history .sh_history .ksh_history .history \
            .local/share/fish/fish_history .python_history .mysql_history .mariadb_history .psql_history .sqlite_history \
            .rediscli_history .node_repl_history .lesshst .viminfo .wget-hsts; do
            drop 'shell history' "$dir/$name"
        done
        drop 'X authority' "$dir/.Xauthority" "$dir/.xsession-errors"
        if [ "$uid" -eq 0 ]; then
            drop 'known hosts of root' "$dir/.ssh/known_hosts" "$dir/.ssh/known_hosts.old"
        else
            case $shell in *nologin | *false | '') ;; *) [ "$uid" -ge 65534 ] || keep "user $user" ;; esac
        fi
        if [ -n "$DRY" ]; then
            surprises "$user" "$dir"
        fi
    done <"$ROOT/etc/passwd"
}

# What a copy can be entered with.
surprises() {
    if [ -f "$2/.ssh/authorized_keys" ]; then
        while read -r line || [ -n "$line" ]; do
            case $line in '' | '#'*) ;; *) keep "ssh key that may log in as $1: ${line##* }" ;; esac
        done <"$2/.ssh/authorized_keys"
    fi
    for path in "$2"/.ssh/id_*; do
        case $path in *.pub) ;; *) [ ! -f "$path" ] || keep "private ssh key of $1: ${path##*/}" ;; esac
    done
    if [ -r "$ROOT/etc/shadow" ]; then
        while IFS=: read -r name hash _; do
            [ "$name" = "$1" ] || continue
            case $hash in '$'*) keep "password of $1" ;; '') keep "$1 needs no password" ;; esac
        done <"$ROOT/etc/shadow"
    fi
}

# What ties a machine to some service and is nothing that can be made anew here.
registrations() {
    for pair in /var/lib/tailscale/tailscaled.state:Tailscale /var/lib/zerotier-one/identity.secret:ZeroTier \
        /etc/salt/pki/minion/minion.pem:Salt /etc/puppetlabs/puppet/ssl/private_keys:Puppet \
        /etc/chef/client.pem:Chef /etc/pki/consumer/key.pem:subscription-manager \
        /var/lib/ubuntu-advantage/private/machine-token.json:'Ubuntu Pro' /etc/krb5.keytab:Kerberos \
        /var/lib/samba/private/secrets.tdb:Samba /etc/wireguard/wg0.conf:WireGuard; do
        [ ! -e "$ROOT${pair%%:*}" ] || keep "registration with ${pair#*:}: ${pair%%:*}"
    done
}

traces() {
    for path in "$ROOT"/tmp/* "$ROOT"/tmp/.[!.]* "$ROOT"/var/tmp/* "$ROOT"/var/tmp/.[!.]*; do
        # These belong to running services and go at the next boot.
        case $path in */systemd-private-*) ;; *) drop 'temporary file' "$path" ;; esac
    done
    # One of the two is a link to the other on most systems.
    for path in "$ROOT/var/mail" "$ROOT/var/spool/mail"; do
        [ -L "$path" ] || blank mailbox "$path"/*
    done
    drop 'crash dump' "$ROOT"/var/crash/* "$ROOT"/var/lib/systemd/coredump/* "$ROOT"/var/spool/abrt/* \
        "$ROOT"/var/lib/apport/coredump/*
    drop 'record of the load' "$ROOT/etc/vcld/loaded"
    drop 'rest of a hook' "$ROOT"/var/lib/vcld/hook.*
    [ ! -e "$ROOT/etc/hostname" ] || put hostname "$ROOT/etc/hostname" 644 localhost
    edit 'hostname in /etc/hosts' "$ROOT/etc/hosts" sed '/^127\.0\.1\.1[[:space:]]/d'
}

# Nobody's account, home, keys or firewall rules of a reservation go into an image.
end_access() {
    if [ -z "$DRY" ]; then
        revoke_access
    elif [ -f "$ROOT$LEDGER/accounts" ]; then
        while read -r name _; do changed 'account of a reservation' "$name"; done <"$ROOT$LEDGER/accounts"
    fi
}

main() {
    [ -f "$ROOT/etc/passwd" ] || fail "there is no Linux at ${ROOT:-/}"
    read_rules
    arm_first_boot
    end_sessions
    end_access
    seeds_and_secrets
    leases
    cloud_init
    pinned_macs
    logs
    histories
    registrations
    traces
    [ -n "$DRY$ROOT" ] || sync
}
main
