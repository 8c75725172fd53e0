# Gives an account of a reservation a password, and has the ssh server take it.
#
# NAME      the account
# PASSWORD  the password, which stands in no file but the shadow one
changed() { printf 'changed\t%s\t%s\n' "$1" "$2"; }
fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

main() {
    account=$(in_ledger accounts "$NAME") || fail "$NAME is no account of a reservation in this guest"
    case $account in *' foreign'*) fail "$NAME is an account of a directory, which keeps its password" ;; esac
    # `printf` is a part of the shell: nothing of this is on a command line.
    printf '%s:%s\n' "$NAME" "$PASSWORD" | chpasswd >/dev/null || fail "its chpasswd does not take the password"
    changed password "$NAME"
    to_ledger passwords "$NAME"
    if ! grep -qi '^[[:space:]]*include[[:space:]].*sshd_config\.d' /etc/ssh/sshd_config 2>/dev/null; then
        printf 'note\t%s\n' "its ssh server has no sshd_config.d, so whether it takes passwords is its image's to say"
        return 0
    fi
    names=''
    while read -r name; do names="$names${names:+,}$name"; done <"$LEDGER/passwords"
    text="Match User $names
    PasswordAuthentication yes"
    [ "$(cat "$SSHD_DROP_IN" 2>/dev/null)" != "$text" ] || return 0
    umask 077
    printf '%s\n' "$text" >"$SSHD_DROP_IN.new" && mv -f "$SSHD_DROP_IN.new" "$SSHD_DROP_IN" || fail "cannot write $SSHD_DROP_IN"
    if have sshd && ! sshd -t >/dev/null 2>&1; then
        rm -f "$SSHD_DROP_IN"
        fail "its ssh server does not take passwords: $(sshd -t 2>&1 | tail -n 1)"
    fi
    reload_ssh_server
    changed 'ssh server, which takes passwords' "$names"
}
main
