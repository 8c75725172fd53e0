# The rules on a NAT host by which users come to the computers behind it. Each public port has its own, known by a comment
# with our word and the port. What is said of a port is all that there is to be of it afterwards; no other port's rule and
# nobody else's is touched. All of a port's rules change at once.
#
# DO       `set`, or `list`, which tells the ports that have their rules
# TABLE    our word: the table of nftables, the beginning of the chains of iptables
# PUBLIC   this host's address that users' packets come to
# PORTS    the ports that something is said of; one without rules below has none afterwards
# RULES    a line each: PORT ADDRESS PORT-THERE INSIDE FROM; INSIDE is the address that computers see, or `-`; FROM is
#          `nobody`, `everybody`, or networks with commas between them
# KIND     `nft`, `iptables` or empty: whichever this host uses

have() { command -v "$1" >/dev/null 2>&1; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# Whether a set of rules has any but ours.
nat_used() {
    "$1" -w 10 -S 2>/dev/null | grep -v -e "$TABLE" -e '^-P .* ACCEPT$' | grep -q .
}

nat_kind() {
    if [ -n "$KIND" ]; then
        echo "$KIND"
    elif have iptables && nat_used iptables; then
        # Whoever rules this host by it would not see what nft puts between its rules.
        echo iptables
    elif have nft && nft list tables >/dev/null 2>&1; then
        echo nft
    elif have iptables && iptables -w 10 -S >/dev/null 2>&1; then
        echo iptables
    else
        printf '%s\n' "it has neither nft nor iptables that can be told; install nftables" >&2
        exit 4
    fi
}

# --- nftables ---

# Takes out the rules of these ports, wherever they stand: what it prints is for `nft -f`.
nft_retract() {
    nft -a list ruleset 2>/dev/null | awk -v mark="comment \"$TABLE-" -v ports=" $PORTS " '
        $1 == "table" { family = $2; table = $3 }
        $1 == "chain" { chain = $2 }
        {
            at = index($0, mark)
            if (!at) next
            port = substr($0, at + length(mark))
            sub(/".*/, "", port)
            n = split($0, words, "# handle ")
            if (n > 1 && index(ports, " " port " "))
                print "delete rule " family " " table " " chain " handle " words[n] + 0
        }'
}

# The chains of others that forwarded packets come through: an accept of ours does not help in them.
nft_foreign() {
    nft list chains 2>/dev/null | while read -r f_a f_b f_c f_d _; do
        case $f_a in
            table) f_family=$f_b f_table=$f_c ;;
            chain) f_in=$f_b ;;
            type)
                [ "$f_b $f_c $f_d" = 'filter hook forward' ] && [ "$f_family $f_table" != "ip $TABLE" ] || continue
                case $f_family in ip | inet) echo "$f_family $f_table $f_in" ;; esac
                ;;
        esac
    done
}

nft_add() {
    printf '%s\n' "$RULES" | while read -r r_port r_to r_at r_inside r_from; do
        [ -n "$r_port" ] || continue
        r_mark="comment \"$TABLE-$r_port\""
        r_public="ip daddr $PUBLIC tcp dport $r_port"
        r_came="ip daddr $r_to tcp dport $r_at ct original proto-dst $r_port"
        # It is no port of this host's own, and whoever may not come any more is not heard any more.
        echo "add rule ip $TABLE input $r_public drop $r_mark"
        case $r_from in
            nobody) echo "add rule ip $TABLE forward $r_came drop $r_mark" && continue ;;
            everybody) r_who='' ;;
            *)
                r_who="ip saddr { $r_from }"
                echo "add rule ip $TABLE forward ip saddr != { $r_from } $r_came drop $r_mark"
                ;;
        esac
        echo "add rule ip $TABLE prerouting $r_who $r_public dnat to $r_to:$r_at $r_mark"
        [ "$r_inside" = - ] ||
            echo "add rule ip $TABLE postrouting ip daddr $r_to tcp dport $r_at ct status dnat snat to $r_inside $r_mark"
        nft_foreign | while read -r f_chain; do
            echo "insert rule $f_chain ip daddr $r_to tcp dport $r_at ct status dnat accept $r_mark"
            echo "insert rule $f_chain ip saddr $r_to tcp sport $r_at ct status dnat accept $r_mark"
        done
    done
}

nft_set() {
    n_new=$(
        cat <<VCLD_CHAINS
add table ip $TABLE
add chain ip $TABLE prerouting { type nat hook prerouting priority -100; policy accept; }
add chain ip $TABLE postrouting { type nat hook postrouting priority 100; policy accept; }
add chain ip $TABLE input { type filter hook input priority -10; policy accept; }
add chain ip $TABLE forward { type filter hook forward priority -10; policy accept; }
VCLD_CHAINS
        nft_retract
        nft_add
    )
    printf '%s\n' "$n_new" | nft -f - || fail 'nft does not take the rules'
}

nft_list() {
    nft list chain ip "$TABLE" input 2>/dev/null | sed -n "s/.*comment \"$TABLE-\([0-9]*\)\".*/\1/p"
}

# --- iptables ---

# The rules of these ports in a table, to be taken out: for `iptables-restore`.
ipt_retract() {
    iptables-save -t "$1" 2>/dev/null | awk -v mark="--comment" -v word="$TABLE-" -v ports=" $PORTS " '
        $1 == "-A" {
            for (n = 2; n < NF; n++) {
                tag = $(n + 1)
                gsub(/"/, "", tag)
                if ($n == mark && index(tag, word) == 1 && index(ports, " " substr(tag, length(word) + 1) " ")) {
                    sub(/^-A/, "-D")
                    print
                    next
                }
            }
        }'
}

ipt_filter() {
    printf '%s\n' "$RULES" | while read -r r_port r_to r_at r_inside r_from; do
        [ -n "$r_port" ] || continue
        r_mark="-m comment --comment $TABLE-$r_port"
        r_came="-p tcp -d $r_to --dport $r_at -m conntrack --ctorigdstport $r_port"
        echo "-A $TABLE-in -p tcp -d $PUBLIC --dport $r_port $r_mark -j DROP"
        case $r_from in
            nobody) ;;
            everybody) echo "-A $TABLE-fwd $r_came $r_mark -j ACCEPT" ;;
            *)
                for r_one in $(printf %s "$r_from" | tr , ' '); do
                    echo "-A $TABLE-fwd -s $r_one $r_came $r_mark -j ACCEPT"
                done
                ;;
        esac
        echo "-A $TABLE-fwd $r_came $r_mark -j DROP"
        echo "-A $TABLE-fwd -p tcp -s $r_to --sport $r_at -m conntrack --ctstate DNAT $r_mark -j ACCEPT"
    done
}

ipt_nat() {
    printf '%s\n' "$RULES" | while read -r r_port r_to r_at r_inside r_from; do
        [ -n "$r_port" ] && [ "$r_from" != nobody ] || continue
        r_mark="-m comment --comment $TABLE-$r_port"
        r_dnat="-p tcp -d $PUBLIC --dport $r_port $r_mark -j DNAT --to-destination $r_to:$r_at"
        if [ "$r_from" = everybody ]; then
            echo "-A $TABLE $r_dnat"
        else
            for r_one in $(printf %s "$r_from" | tr , ' '); do echo "-A $TABLE -s $r_one $r_dnat"; done
        fi
        [ "$r_inside" = - ] ||
            echo "-A $TABLE-out -p tcp -d $r_to --dport $r_at -m conntrack --ctstate DNAT $r_mark -j SNAT --to-source $r_inside"
    done
}

# ipt_chain TABLE CHAIN FROM: a chain of ours that packets come through first.
ipt_chain() {
    iptables -w 10 -t "$1" -n -L "$2" >/dev/null 2>&1 || iptables -w 10 -t "$1" -N "$2" || fail "iptables makes no chain $2"
    iptables -w 10 -t "$1" -C "$3" -j "$2" 2>/dev/null || iptables -w 10 -t "$1" -I "$3" 1 -j "$2" || fail "iptables jumps to no $2"
}

ipt_has_chains() {
    iptables -w 10 -C INPUT -j "$TABLE-in" 2>/dev/null && iptables -w 10 -C FORWARD -j "$TABLE-fwd" 2>/dev/null &&
        iptables -w 10 -t nat -C PREROUTING -j "$TABLE" 2>/dev/null &&
        iptables -w 10 -t nat -C POSTROUTING -j "$TABLE-out" 2>/dev/null
}

ipt_set() {
    if [ -n "$RULES" ]; then
        ipt_chain filter "$TABLE-in" INPUT
        ipt_chain filter "$TABLE-fwd" FORWARD
        ipt_chain nat "$TABLE" PREROUTING
        ipt_chain nat "$TABLE-out" POSTROUTING
    fi
    i_filter=$(ipt_retract filter && ipt_filter)
    i_nat=$(ipt_retract nat && ipt_nat)
    printf '*filter\n%s\nCOMMIT\n*nat\n%s\nCOMMIT\n' "$i_filter" "$i_nat" | iptables-restore -w 10 --noflush ||
        fail 'iptables does not take the rules'
}

ipt_list() {
    ipt_has_chains || return 0
    iptables -w 10 -S "$TABLE-in" 2>/dev/null | sed -n "s/.*--comment \"\{0,1\}$TABLE-\([0-9]*\)\"\{0,1\} .*/\1/p"
}

# --- what is to be done ---

kind=$(nat_kind) || exit 4
# What the other one has of ours is left from before the site changed from one to the other.
other_rules() {
    [ "$kind" = nft ] || ! have nft || [ -z "$(nft_list)" ] || echo nft
    [ "$kind" = iptables ] || ! have iptables-save || [ -z "$(ipt_list)" ] || echo iptables
}
case $DO in
    list)
        {
            ! have nft || nft_list
            ! have iptables || ipt_list
        } | sort -un | xargs -n 100 | sed 's/^/ports\t/'
        ;;
    set)
        if [ -n "$RULES" ] && [ "$(cat /proc/sys/net/ipv4/ip_forward)" != 1 ]; then
            echo 1 >/proc/sys/net/ipv4/ip_forward || fail 'it does not forward packets, and cannot be told to'
            printf 'changed\tforwarding of packets\n'
        fi
        for o_kind in $(other_rules); do
            o_rules=$RULES RULES=''
            if [ "$o_kind" = nft ]; then nft_set; else ipt_set; fi
            RULES=$o_rules
        done
        if [ "$kind" = nft ]; then nft_set; else ipt_set; fi
        printf 'changed\trules of ports %s by %s\n' "$PORTS" "$kind"
        ;;
esac
