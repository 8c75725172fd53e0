# The rules for a reservation's ports, in whatever firewall the guest really uses. They are ours alone: a table, a chain, or
# rules that are known by a mark. Nobody else's rule is touched. On those ports whoever may come is let in and everybody
# else is kept out; other ports are none of our business.
#
# PORTS           the ports
# FROM            `nobody`, `only`, `everybody`
# ALLOW4 ALLOW6   from where, and where vcld itself comes from; with `everybody` nothing has to be in them
# SSH_PORT        the ssh server's where it is none of them: it is for vcld alone; empty where it is one of them
# KEEP4 KEEP6     where vcld itself comes from, and networks that are let in whoever the user is

FW_CHAIN=vcld-access
# As firewalld writes them: ours are known by these two.
FW_ACCEPT='rule priority="-31000"'
FW_DROP='rule priority="-30999"'

# Whether a set of rules has any but ours.
fw_used() {
    "$1" -S 2>/dev/null | grep -v -e "$FW_CHAIN" -e '^-P .* ACCEPT$' | grep -q .
}

fw_kind() {
    if have firewall-cmd && firewall-cmd --quiet --state 2>/dev/null; then
        echo firewalld
    elif have ufw && grep -qi '^ENABLED=yes' /etc/ufw/ufw.conf 2>/dev/null; then
        echo ufw
    elif have iptables-legacy && grep -qs filter /proc/net/ip_tables_names /proc/net/ip6_tables_names &&
        { fw_used iptables-legacy || fw_used ip6tables-legacy; }; then
        echo iptables-legacy
    elif have iptables && { fw_used iptables || fw_used ip6tables; }; then
        echo iptables
    elif have nft && nft list tables >/dev/null 2>&1; then
        echo nft
    elif have iptables && iptables -w -S >/dev/null 2>&1; then
        echo iptables
    else
        echo none
    fi
}

fw_list() { printf %s "$1" | sed 's/  */, /g'; }

# fw_nft_accepts FAMILY CHAIN NETS4 NETS6: what a chain of ours says: of one family where a table is of one.
fw_nft_accepts() {
    [ "$1" = ip6 ] || for f_net in $3; do echo "add rule $2 ip saddr $f_net accept"; done
    [ "$1" = ip ] || for f_net in $4; do echo "add rule $2 ip6 saddr $f_net accept"; done
}

# The chains of others that packets come through: an accept of ours does not help in them.
fw_nft_foreign() {
    nft list chains 2>/dev/null | while read -r f_a f_b f_c f_d _; do
        case $f_a in
            table) f_family=$f_b f_table=$f_c ;;
            chain) f_in=$f_b ;;
            type)
                [ "$f_b $f_c $f_d" = 'filter hook input' ] && [ "$f_family $f_table" != 'inet vcld' ] || continue
                case $f_family in ip | ip6 | inet) echo "$f_family $f_table $f_in" ;; esac
                ;;
        esac
    done
}

# Takes our jumps and chains out of others' tables: what it prints is for `nft -f`.
fw_nft_retract() {
    nft list tables 2>/dev/null | while read -r _ f_family f_table; do
        [ "$f_family $f_table" != 'inet vcld' ] || continue
        nft -a list table "$f_family" "$f_table" 2>/dev/null | while read -r f_line; do
            case $f_line in
                chain*) f_in=${f_line#chain } f_in=${f_in%% *} ;;
                *"jump $FW_CHAIN"*"# handle "*) echo "delete rule $f_family $f_table $f_in handle ${f_line##*# handle }" ;;
            esac
        done
        if nft list chain "$f_family" "$f_table" $FW_CHAIN >/dev/null 2>&1; then
            echo "flush chain $f_family $f_table $FW_CHAIN"
            [ -z "${1-}" ] || echo "delete chain $f_family $f_table $FW_CHAIN"
        fi
    done
}

fw_nft_open() {
    f_ports=$(fw_list "$PORTS")
    {
        echo 'add table inet vcld'
        echo 'delete table inet vcld'
        echo 'add table inet vcld'
        echo 'add chain inet vcld input { type filter hook input priority -10; policy accept; }'
        echo 'add rule inet vcld input iifname lo accept'
        if [ -n "$PORTS" ] && [ "$FROM" != everybody ]; then
            echo 'add chain inet vcld access'
            fw_nft_accepts inet 'inet vcld access' "$ALLOW4" "$ALLOW6"
            echo 'add rule inet vcld access drop'
            echo "add rule inet vcld input tcp dport { $f_ports } jump access"
        fi
        if [ -n "$SSH_PORT" ]; then
            echo 'add chain inet vcld managers'
            fw_nft_accepts inet 'inet vcld managers' "$KEEP4" "$KEEP6"
            echo 'add rule inet vcld managers drop'
            echo "add rule inet vcld input tcp dport $SSH_PORT jump managers"
        fi
    } >"$LEDGER/own.nft"
    { [ -z "$PORTS" ] || fw_nft_foreign; } | while read -r f_family f_table f_in; do
        echo "add chain $f_family $f_table $FW_CHAIN"
        fw_nft_accepts "$f_family" "$f_family $f_table $FW_CHAIN" "$ALLOW4" "$ALLOW6"
        [ "$FROM" != everybody ] || echo "add rule $f_family $f_table $FW_CHAIN accept"
        echo "insert rule $f_family $f_table $f_in tcp dport { $f_ports } jump $FW_CHAIN"
    done >"$LEDGER/others.nft"
    # All of it at once, or nothing.
    { cat "$LEDGER/own.nft" && fw_nft_retract && cat "$LEDGER/others.nft"; } | nft -f - || return 1
    echo "nft -f $LEDGER/own.nft; nft -f $LEDGER/others.nft" >"$LEDGER/at-boot.firewall"
}

fw_nft_remove() {
    {
        echo 'add table inet vcld'
        echo 'delete table inet vcld'
        fw_nft_retract all
    } | nft -f -
}

# fw_iptables_open COMMAND NETS KEEP
fw_iptables_open() {
    f_command=$1
    {
        echo '*filter'
        echo ":$FW_CHAIN - [0:0]"
        echo "-A $FW_CHAIN -i lo -j RETURN"
        if [ -n "$SSH_PORT" ]; then
            for f_net in $3; do echo "-A $FW_CHAIN -s $f_net -p tcp -m tcp --dport $SSH_PORT -j ACCEPT"; done
            echo "-A $FW_CHAIN -p tcp -m tcp --dport $SSH_PORT -j DROP"
        fi
        for f_port in $PORTS; do
            for f_net in $2; do echo "-A $FW_CHAIN -s $f_net -p tcp -m tcp --dport $f_port -j ACCEPT"; done
            if [ "$FROM" = everybody ]; then
                echo "-A $FW_CHAIN -p tcp -m tcp --dport $f_port -j ACCEPT"
            else
                echo "-A $FW_CHAIN -p tcp -m tcp --dport $f_port -j DROP"
            fi
        done
        echo COMMIT
    } >"$LEDGER/$f_command.rules"
    "$f_command-restore" -w 10 --noflush <"$LEDGER/$f_command.rules" || return 1
    echo "$f_command-restore -w 10 --noflush <$LEDGER/$f_command.rules; $f_command -w 10 -C INPUT -j $FW_CHAIN 2>/dev/null ||
        $f_command -w 10 -I INPUT 1 -j $FW_CHAIN" >>"$LEDGER/at-boot.firewall"
    "$f_command" -w 10 -C INPUT -j "$FW_CHAIN" 2>/dev/null || "$f_command" -w 10 -I INPUT 1 -j "$FW_CHAIN"
}

fw_iptables_remove() {
    have "$1" && "$1" -w 10 -n -L "$FW_CHAIN" >/dev/null 2>&1 || return 0
    while "$1" -w 10 -D INPUT -j "$FW_CHAIN" 2>/dev/null; do :; done
    "$1" -w 10 -F "$FW_CHAIN" && "$1" -w 10 -X "$FW_CHAIN"
}

fw_firewalld_wanted() {
    for f_port in $PORTS; do
        f_at="port port=\"$f_port\" protocol=\"tcp\""
        for f_net in $ALLOW4; do echo "$FW_ACCEPT family=\"ipv4\" source address=\"$f_net\" $f_at accept"; done
        for f_net in $ALLOW6; do echo "$FW_ACCEPT family=\"ipv6\" source address=\"$f_net\" $f_at accept"; done
        if [ "$FROM" = everybody ]; then echo "$FW_ACCEPT $f_at accept"; else echo "$FW_DROP $f_at drop"; fi
    done
    [ -n "$SSH_PORT" ] || return 0
    f_at="port port=\"$SSH_PORT\" protocol=\"tcp\""
    for f_net in $KEEP4; do echo "$FW_ACCEPT family=\"ipv4\" source address=\"$f_net\" $f_at accept"; done
    for f_net in $KEEP6; do echo "$FW_ACCEPT family=\"ipv6\" source address=\"$f_net\" $f_at accept"; done
    echo "$FW_DROP $f_at drop"
}

# fw_firewalld_zone ZONE WANTED [--permanent]: adds what is missing, then takes away what is too much.
fw_firewalld_zone() {
    f_has=$(firewall-cmd ${3-} --zone="$1" --list-rich-rules 2>/dev/null | grep -F -e "$FW_ACCEPT" -e "$FW_DROP")
    f_zone=$1 f_wants=$2 f_permanent=${3-}
    for f_do in add remove; do
        set --
        if [ $f_do = add ]; then f_these=$f_wants f_those=$f_has; else f_these=$f_has f_those=$f_wants; fi
        while IFS= read -r f_rule; do
            [ -z "$f_rule" ] || printf '%s\n' "$f_those" | grep -qxF -e "$f_rule" || set -- "$@" "--$f_do-rich-rule=$f_rule"
        done <<VCLD_RULES
$f_these
VCLD_RULES
        [ $# -eq 0 ] || firewall-cmd --quiet $f_permanent --zone="$f_zone" "$@" || return 1
    done
}

fw_firewalld_all() {
    f_all=$1
    { firewall-cmd --get-default-zone && firewall-cmd --get-active-zones | grep '^[^[:space:]]' | sed 's/ .*//'; } | sort -u |
        while read -r f_name; do
            fw_firewalld_zone "$f_name" "$f_all" && fw_firewalld_zone "$f_name" "$f_all" --permanent || exit 1
        done
}

fw_firewalld_remove() {
    for f_name in $(firewall-cmd --get-zones); do
        fw_firewalld_zone "$f_name" '' && fw_firewalld_zone "$f_name" '' --permanent || return 1
    done
}

# Where its daemon is not running, its files are changed by its offline tool; nothing else is in force.
fw_ufw_remove() {
    ufw show added 2>/dev/null | grep -F "comment '$FW_CHAIN'" | while read -r _ f_rest; do
        f_rest=${f_rest%" comment '$FW_CHAIN'"}
        # shellcheck disable=SC2086
        ufw --force delete $f_rest >/dev/null || exit 1
    done
}

# fw_ufw_only PORT NET…
fw_ufw_only() {
    f_port=$1
    shift
    ufw prepend deny proto tcp from any to any port "$f_port" comment "$FW_CHAIN" >/dev/null || return 1
    for f_net; do
        ufw prepend allow proto tcp from "$f_net" to any port "$f_port" comment "$FW_CHAIN" >/dev/null || return 1
    done
}

fw_ufw_open() {
    fw_ufw_remove || return 1
    # shellcheck disable=SC2086
    [ -z "$SSH_PORT" ] || fw_ufw_only "$SSH_PORT" $KEEP4 $KEEP6 || return 1
    for f_each in $PORTS; do
        if [ "$FROM" = everybody ]; then
            ufw prepend allow proto tcp from any to any port "$f_each" comment "$FW_CHAIN" >/dev/null || return 1
        else
            # shellcheck disable=SC2086
            fw_ufw_only "$f_each" $ALLOW4 $ALLOW6 || return 1
        fi
    done
}

# Whether the rules that were set are still there: a reboot takes some of them away.
fw_holds() {
    case $1 in
        nft) nft list table inet vcld >/dev/null 2>&1 ;;
        iptables | iptables-legacy) "$1" -w 10 -C INPUT -j "$FW_CHAIN" 2>/dev/null ;;
        *) return 0 ;;
    esac
}

fw_open() {
    f_kind=$(fw_kind)
    f_rules="$f_kind $FROM ports $PORTS from $ALLOW4 $ALLOW6${SSH_PORT:+ and $SSH_PORT from $KEEP4 $KEEP6}"
    f_was=''
    [ ! -f "$LEDGER/firewall" ] || read -r f_was <"$LEDGER/firewall"
    if [ "$f_was" = "$f_kind" ] && [ "$(cat "$LEDGER/rules" 2>/dev/null)" = "$f_rules" ] && fw_holds "$f_kind"; then
        return 0
    fi
    [ -z "$f_was" ] || [ "$f_was" = "$f_kind" ] || fw_remove
    if [ "$f_kind" = none ]; then
        f_open=$SSH_PORT
        [ "$FROM" = everybody ] || f_open="$PORTS${f_open:+ $f_open}"
        [ -z "$f_open" ] ||
            printf 'note\t%s\n' "it has no firewall that can be told: its ports $f_open are open to whoever reaches it"
        return 0
    fi
    echo "$f_kind" >"$LEDGER/firewall" && rm -f "$LEDGER/rules" "$LEDGER/at-boot.firewall" || fail "cannot write $LEDGER/firewall"
    case $f_kind in
        nft) fw_nft_open ;;
        iptables | iptables-legacy)
            fw_iptables_open "$f_kind" "$ALLOW4" "$KEEP4" &&
                { [ ! -e /proc/net/if_inet6 ] || fw_iptables_open "ip6${f_kind#ip}" "$ALLOW6" "$KEEP6"; }
            ;;
        firewalld) fw_firewalld_all "$(fw_firewalld_wanted)" ;;
        ufw) fw_ufw_open ;;
    esac || fail "cannot set the rules of its firewall, $f_kind"
    printf '%s\n' "$f_rules" >"$LEDGER/rules"
    changed 'firewall rules' "$f_kind: $FROM"
}

fw_remove() {
    [ -f "$LEDGER/firewall" ] || return 0
    read -r f_was <"$LEDGER/firewall"
    case $f_was in
        nft) ! have nft || fw_nft_remove ;;
        iptables | iptables-legacy) fw_iptables_remove "$f_was" && fw_iptables_remove "ip6${f_was#ip}" ;;
        firewalld) ! firewall-cmd --quiet --state 2>/dev/null || fw_firewalld_remove ;;
        ufw) ! have ufw || fw_ufw_remove ;;
    esac || fail "cannot take our rules out of its firewall, $f_was"
    rm -f "$LEDGER/firewall" "$LEDGER/rules" "$LEDGER/at-boot.firewall"
    changed 'firewall rules' "$f_was"
}
