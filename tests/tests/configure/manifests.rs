//! Manifests of one type of cdist's each, and one of many, of which a second run changes nothing. Each works in a Debian that has
//! nothing but what is essential, without a network.

/// A name, and the manifest.
pub const ONE_TYPE: &[(&str, &str)] = &[
    ("block", "__block b --file /etc/issue --text - <<X\nhello\nworld\nX\n"),
    (
        "check_messages",
        "echo m | __file /etc/m --source -\nrequire=__file/etc/m __check_messages c --pattern '^__file/etc/m' --execute 'touch /checked'\n",
    ),
    ("clean_path", "__clean_path /opt --pattern '.*'\n"),
    ("config_file", "echo hi | __config_file /etc/c --source - --onchange 'touch /changed'\n"),
    ("directory", "__directory /opt/a/b --parents --mode 0750 --owner daemon --group daemon\n"),
    ("directory_absent", "__directory /home --state absent\n"),
    ("file_absent", "__file /etc/issue --state absent\n"),
    ("file_empty", "__file /etc/empty\n"),
    ("file_exists", "__file /etc/e --state exists\n"),
    ("file_mode", "__file /etc/issue --mode 0600 --owner daemon --group daemon\n"),
    ("file_onchange", "echo x | __file /etc/o --source - --onchange 'touch /onchange'\n"),
    ("file_pre_exists", "__file /etc/issue --state pre-exists\n"),
    ("file_stdin", "echo 'it is' | __file /etc/s --source - --mode 600 --owner root --group root\n"),
    ("group", "__group g --gid 1700\n"),
    ("group_absent", "__group operator --state absent\n"),
    ("issue", "__issue\n"),
    ("key_value", "__key_value k --file /etc/login.defs --key UMASK --value 077 --delimiter ' '\n"),
    ("key_value_absent", "__key_value k --file /etc/login.defs --key UMASK --delimiter ' ' --state absent\n"),
    ("line", "__line l --file /etc/passwd --line 'x:x:1:1::/:/x'\n"),
    ("line_absent", "__line l --file /etc/passwd --regex '^games:' --state absent\n"),
    ("line_after", "__line l --file /etc/passwd --line 'y:x:1:1::/:/x' --after '^root:'\n"),
    ("link_hard", "__link /etc/issue.hard --source /etc/issue --type hard\n"),
    ("link_symbolic", "__link /root/l --source /etc/passwd --type symbolic\n"),
    ("motd", "echo hi | __motd --source -\n"),
    ("sed", "__sed /etc/issue --script 's/Debian/Debbie/'\n"),
    ("ssh_dot_ssh", "__ssh_dot_ssh root\n"),
    ("ssh_keys", "__ssh_authorized_keys root --key 'ssh-ed25519 AAAA c'\n"),
    ("ssh_key", "__ssh_authorized_key k --file /root/keys --key 'ssh-ed25519 AAAA c' --option 'no-pty'\n"),
    ("systemd_unit", "__systemd_unit x.service --state absent\n"),
    ("update_alternatives", "__update_alternatives awk --path /usr/bin/mawk\n"),
    ("user", "__user u --uid 1600 --home /home/u --shell /bin/sh --create-home\n"),
    ("user_absent", "__user games --state absent\n"),
    ("user_groups", "__group g --gid 1700\nrequire=__group/g __user_groups daemon --group g\n"),
];

/// The same, for a Debian with what `debian.rs` puts into it.
pub const MORE: &[(&str, &str)] = &[
    ("apt_mark", "__apt_mark mawk --state hold\n"),
    (
        "apt_misc",
        "__apt_norecommends\n__apt_default_release --release bookworm\n__apt_pin p --package bc --distribution bookworm\n",
    ),
    ("apt_source", "__apt_source local --uri file:/srv/repo --distribution ./\n"),
    ("cron", "__cron c --user root --command /bin/true --minute 5\n"),
    ("debconf", "__debconf_set_selections d --line 'ssl-cert make-ssl-cert/hostname string lab'\n"),
    ("hostname", "__hostname --name lab\n"),
    ("hwclock", "__hwclock --mode UTC\n"),
    ("locale", "__locale de_DE.UTF-8\n"),
    ("locale_system", "__locale_system LANG --value C.UTF-8\n"),
    ("package_installed2", "__package cron\n__package rsync\n__file /etc/e --state exists\n"),
    ("package_new", "__package bc\n"),
    ("rsync", "__rsync /srv/copied --source /etc/ssl/\n"),
    ("snakeoil", "__snakeoil_cert lab --common-name lab.example.org\n"),
    (
        "sshd_config",
        "__directory /run/sshd\nrequire=__directory/run/sshd __sshd_config PermitRootLogin --value no\n",
    ),
    ("sysctl", "__sysctl net.ipv4.ip_forward --value 0\n"),
    ("timezone", "__timezone --tz Europe/Berlin\n"),
    ("unattended", "__apt_unattended_upgrades\n"),
];

/// Objects of many types, that require each other, define each other and send each other messages, `n` times nine and what
/// these define. What goes into one file has an order, for cdist's is that of its directories.
pub fn mixed(n: usize) -> String {
    format!(
        "i=0\nwhile [ \"$i\" -lt {n} ]; do i=$((i + 1))\n\
         __directory \"/opt/d$i\" --mode 0755\n\
         require=\"__directory/opt/d$i\" __file \"/opt/d$i/file\" --source - --mode 0640 <<X\ncontent of $i\nX\n\
         require=\"__directory/opt/d$i\" __link \"/opt/d$i/link\" --source /etc/passwd --type symbolic\n\
         echo \"text $i\" | require=\"__directory/opt/d$i\" __config_file \"/opt/d$i/config\" --source - --onchange \"touch /opt/d$i/changed\"\n\
         require=\"__directory/opt/d$i\" __file \"/opt/d$i/lines\" --state exists\n\
         require=\"__file/opt/d$i/lines\" __line \"line-$i\" --file \"/opt/d$i/lines\" --line \"added by $i\"\n\
         require=\"__config_file/opt/d$i/config\" __check_messages \"check-$i\" --pattern \"^__file/opt/d$i/config\" --execute \"echo x >>/opt/d$i/checked\"\n\
         require=\"$before\" __group \"g$i\" --gid \"$((2000 + i))\"\n\
         require=\"__group/g$i\" __user \"u$i\" --uid \"$((2000 + i))\" --gid \"g$i\" --shell /bin/sh\n\
         before=__user/u$i\n\
         done\n"
    )
}
