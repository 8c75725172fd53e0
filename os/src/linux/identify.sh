# Tells what makes this guest somebody, to be compared with another. It changes nothing, and what is secret it tells as a
# digest.
#
# Prints `item<TAB>NAME<TAB>VALUE`.
#
# ROOT  in front of every path: empty for the running system

item() { printf 'item\t%s\t%s\n' "$1" "$2"; }
digest() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else cksum; fi <"$1" 2>/dev/null | {
        read -r sum _
        printf %s "$sum"
    }
}
# of_file ITEM FILE…: the first line of each.
of_file() {
    what=$1
    shift
    for path do
        [ -f "$path" ] && [ -s "$path" ] || continue
        line=''
        read -r line <"$path"
        item "$what" "$line"
    done
}
# digest_of ITEM FILE…: what is in each.
digest_of() {
    what=$1
    shift
    for path do
        [ ! -f "$path" ] || [ ! -s "$path" ] || item "$what" "$(digest "$path")"
    done
}

main() {
    of_file machine-id "$ROOT/etc/machine-id" "$ROOT/var/lib/dbus/machine-id"
    of_file hostname "$ROOT/etc/hostname"
    for path in "$ROOT"/etc/ssh/ssh_host_*_key.pub; do
        [ -f "$path" ] && read -r kind key _ <"$path" && item ssh-host-key "$kind $key"
    done
    digest_of random-seed "$ROOT/var/lib/systemd/random-seed" "$ROOT/var/lib/urandom/random-seed" \
        "$ROOT/var/lib/seedrng/seed.credit" "$ROOT/var/lib/seedrng/seed.no-credit" "$ROOT/boot/efi/loader/random-seed" \
        "$ROOT/efi/loader/random-seed" "$ROOT/boot/loader/random-seed"
    digest_of systemd-credential-secret "$ROOT/var/lib/systemd/credential.secret"
    digest_of networkmanager-secret-key "$ROOT/var/lib/NetworkManager/secret_key"
    of_file dhcp-client-id "$ROOT/etc/dhcpcd.duid" "$ROOT/var/lib/dhcpcd/duid" "$ROOT/var/lib/dhcpcd5/duid"
    # A lease's file has its times in it: the same file is a copy, the same address may be another network's.
    digest_of dhcp-lease "$ROOT"/var/lib/dhcp/*.leases "$ROOT"/var/lib/dhclient/*.lease* "$ROOT"/var/lib/dhcpcd/*.lease* \
        "$ROOT"/var/lib/NetworkManager/*.lease
    of_file iscsi-initiator "$ROOT/etc/iscsi/initiatorname.iscsi"
    of_file nvme-host "$ROOT/etc/nvme/hostnqn" "$ROOT/etc/nvme/hostid"
    [ ! -s "$ROOT/etc/hostid" ] || item host-id "$(od -An -tx4 "$ROOT/etc/hostid" | tr -d ' \n')"
    for path in "$ROOT"/etc/netplan/*.y*ml "$ROOT"/etc/systemd/network/* "$ROOT"/etc/udev/rules.d/*net*.rules \
        "$ROOT/etc/network/interfaces" "$ROOT"/etc/network/interfaces.d/* \
        "$ROOT"/etc/NetworkManager/system-connections/* "$ROOT"/etc/sysconfig/network-scripts/ifcfg-*; do
        [ -f "$path" ] || continue
        grep -v '^[[:space:]]*#' "$path" | grep -oiE '([0-9a-f]{2}:){5}[0-9a-f]{2}' | tr 'A-F' 'a-f' | sort -u | while read -r mac; do
            item mac-in-file "$mac"
        done
    done
    digest_of cloud-init-instance "$ROOT/var/lib/cloud/data/instance-id"
    for path in "$ROOT"/root/.ssh/id_*.pub; do
        [ -f "$path" ] && read -r kind key _ <"$path" && item root-ssh-key "$kind $key"
    done
    # Those that a mesh or an agent knows the machine by.
    digest_of registration "$ROOT/var/lib/tailscale/tailscaled.state" "$ROOT/etc/puppetlabs/puppet/ssl/certificate_requests"/* \
        "$ROOT/etc/salt/pki/minion/minion.pem" "$ROOT/var/lib/zerotier-one/identity.secret"
    # The cards themselves.
    for path in "$ROOT"/sys/class/net/*; do
        [ -e "$path/device" ] && read -r mac <"$path/address" && item mac "$mac"
    done
    return 0
}
main
