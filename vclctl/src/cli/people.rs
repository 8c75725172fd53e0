//! People: signing in, users, groups, grants, tokens.

use clap::Subcommand;
use vcl_types::people::{GroupName, ImagePattern, Scope, Source, UserName, Verb};

/// How somebody signs in.
#[derive(Debug, clap::Args)]
pub struct LoginArguments {
    /// With this name and a password, which is asked for; without it, at the site's sign-in page if there is one.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Read the password from the first line of standard input, for scripts.
    #[arg(long, requires = "user")]
    pub password_stdin: bool,
    /// At the site's sign-in page, on another device.
    #[arg(long, conflicts_with = "user")]
    pub device: bool,
    /// What the token is called in lists.
    #[arg(long, value_name = "TEXT")]
    pub label: Option<String>,
}

/// What can be wanted of users.
#[derive(Debug, Subcommand)]
pub enum UserVerb {
    /// List all users.
    #[command(after_help = "Example: vclctl user list")]
    List,
    /// Show one user, with the groups they are in and who says so.
    #[command(after_help = "Example: vclctl user show alice")]
    Show {
        /// The user.
        name: UserName,
    },
    /// Make a user. One whom a directory or provider vouches for is made when they first sign in.
    #[command(
        after_help = "Examples:\n  vclctl user add alice --full-name 'Alice Smith' --mail alice@example.org\n  \
            vclctl user add bob --source oidc"
    )]
    Add {
        /// The user.
        name: UserName,
        /// Who says that it is they: local, oidc, ldap or proxy.
        #[arg(long, default_value = "local", value_name = "WORD")]
        source: Source,
        /// What people call them.
        #[arg(long, value_name = "TEXT")]
        full_name: Option<String>,
        /// Where notices go.
        #[arg(long, value_name = "ADDRESS")]
        mail: Option<String>,
    },
    /// Change a user.
    #[command(after_help = "Examples:\n  vclctl user set alice --mail alice@example.org\n  \
            vclctl user set alice --password    asks for it twice\n  \
            vclctl user set alice --uid 20417   her files on the file server belong to that number")]
    Set {
        /// The user.
        name: UserName,
        /// Who says that it is they: local, oidc, ldap or proxy.
        #[arg(long, value_name = "WORD")]
        source: Option<Source>,
        /// What people call them.
        #[arg(long, value_name = "TEXT")]
        full_name: Option<String>,
        /// Where notices go.
        #[arg(long, value_name = "ADDRESS")]
        mail: Option<String>,
        /// The user id of their accounts in guests, from 1000 on, as file servers know them; 0 for whichever is free.
        #[arg(long, value_name = "NUMBER")]
        uid: Option<u32>,
        /// Set the password, which is asked for.
        #[arg(long, conflicts_with = "no_password")]
        password: bool,
        /// Read the password from the first line of standard input, for scripts; the present one, where it is wanted, from
        /// the second.
        #[arg(long, requires = "password")]
        password_stdin: bool,
        /// Take the password away.
        #[arg(long)]
        no_password: bool,
    },
    /// Let a user in nowhere.
    #[command(after_help = "Example: vclctl user disable alice")]
    Disable {
        /// The user.
        name: UserName,
    },
    /// Let a user in again.
    #[command(after_help = "Example: vclctl user enable alice")]
    Enable {
        /// The user.
        name: UserName,
    },
    /// Forget a user, with their memberships and tokens.
    #[command(after_help = "Example: vclctl user delete alice --yes")]
    Delete {
        /// The user.
        name: UserName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Look after a user's public ssh keys.
    #[command(subcommand, after_help = "Example: vclctl user key add alice ~/.ssh/id_ed25519.pub")]
    Key(KeyVerb),
}

/// What can be wanted of keys.
#[derive(Debug, Subcommand)]
pub enum KeyVerb {
    /// Add the public key in a file.
    #[command(after_help = "Example: vclctl user key add alice ~/.ssh/id_ed25519.pub")]
    Add {
        /// The user.
        name: UserName,
        /// The file, as ssh-keygen makes it.
        #[arg(value_name = "FILE.pub")]
        file: std::path::PathBuf,
    },
    /// Remove the keys whose text has this in it, such as the comment at their end.
    #[command(after_help = "Example: vclctl user key remove alice alice@desk")]
    Remove {
        /// The user.
        name: UserName,
        /// The text.
        text: String,
    },
}

/// What can be wanted of groups.
#[derive(Debug, Subcommand)]
pub enum GroupVerb {
    /// List all groups, with what they may.
    #[command(after_help = "Example: vclctl group list")]
    List,
    /// Show one group, with who is in it.
    #[command(after_help = "Example: vclctl group show gis-course")]
    Show {
        /// The group.
        name: GroupName,
    },
    /// Make a group. One of a directory's or provider's has the name it has there.
    #[command(after_help = "Example: vclctl group add gis-course --note 'GIS 101, autumn'")]
    Add {
        /// The group.
        name: GroupName,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Forget a group, with its members and what it may.
    #[command(after_help = "Example: vclctl group delete gis-course --yes")]
    Delete {
        /// The group.
        name: GroupName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Put users into a group, or out of it.
    #[command(subcommand, after_help = "Example: vclctl group member add gis-course alice")]
    Member(MemberVerb),
}

/// What can be wanted of members.
#[derive(Debug, Subcommand)]
pub enum MemberVerb {
    /// Put users into a group.
    #[command(after_help = "Example: vclctl group member add gis-course alice bob")]
    Add {
        /// The group.
        group: GroupName,
        /// The users.
        #[arg(required = true)]
        users: Vec<UserName>,
    },
    /// Take users out of a group.
    #[command(after_help = "Example: vclctl group member remove gis-course alice")]
    Remove {
        /// The group.
        group: GroupName,
        /// The users.
        #[arg(required = true)]
        users: Vec<UserName>,
    },
}

/// What can be wanted of groups of images.
#[derive(Debug, Subcommand)]
pub enum ImageGroupVerb {
    /// List the groups of images.
    #[command(after_help = "Example: vclctl image-group list")]
    List,
    /// Make a group of images.
    #[command(after_help = "Example: vclctl image-group create gis --note 'of the geography department'")]
    Create {
        /// The group.
        name: GroupName,
        /// What it is for.
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Forget a group of images, with every grant on it. The images stay.
    #[command(after_help = "Example: vclctl image-group delete gis --yes")]
    Delete {
        /// The group.
        name: GroupName,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Put images into a group, those too that will be made under such a name.
    #[command(
        after_help = "Examples:\n  vclctl image-group add gis 'gis-*'\n  vclctl image-group add gis qgis"
    )]
    Add {
        /// The group.
        group: GroupName,
        /// An image, the beginning of names with `*` after it, or `*` for all.
        #[arg(required = true)]
        images: Vec<ImagePattern>,
    },
    /// Take images out of a group.
    #[command(after_help = "Example: vclctl image-group remove gis 'gis-*'")]
    Remove {
        /// The group.
        group: GroupName,
        /// As they were put in.
        #[arg(required = true)]
        images: Vec<ImagePattern>,
    },
}

/// What can be wanted of grants.
#[derive(Debug, Subcommand)]
pub enum GrantVerb {
    /// List what groups may.
    #[command(after_help = "Example: vclctl grant list")]
    List,
    /// Give a group a right: look, reserve, imaging, images, operate, classes, people or administer.
    #[command(after_help = "Examples:\n  vclctl grant add gis-staff images images:gis\n  \
            vclctl grant add gis-staff operate computers:room-b12\n  vclctl grant add students reserve all")]
    Add {
        /// The group.
        group: GroupName,
        /// What it may.
        verb: Verb,
        /// On what: all, images:GROUP or computers:TAG.
        scope: Scope,
    },
    /// Take a right back.
    #[command(after_help = "Example: vclctl grant remove 7")]
    Remove {
        /// The grant's number, as `grant list` prints it.
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
    },
}

/// What can be wanted of tokens.
#[derive(Debug, Subcommand)]
pub enum TokenVerb {
    /// List your tokens, or others'.
    #[command(after_help = "Examples:\n  vclctl token list\n  vclctl token list --all")]
    List {
        /// Those of this user.
        #[arg(long, value_name = "NAME", conflicts_with = "all")]
        owner: Option<UserName>,
        /// Those of everybody.
        #[arg(long)]
        all: bool,
    },
    /// Make a token. Its secret is printed once, here.
    #[command(
        after_help = "Examples:\n  vclctl token create 'nightly captures' --scope imaging --days 90\n  \
            vclctl token create monitoring --owner monitor --scope look"
    )]
    Create {
        /// What it is for.
        label: String,
        /// All it may be used for; may be given several times. Without it, whatever its owner may.
        #[arg(long = "scope", value_name = "RIGHT")]
        scopes: Vec<Verb>,
        /// Whose it is to be, if not yours.
        #[arg(long, value_name = "NAME")]
        owner: Option<UserName>,
        /// For how many days it is good.
        #[arg(long, default_value_t = 365, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,
    },
    /// Take a token back.
    #[command(after_help = "Example: vclctl token revoke 0123456789abcdef")]
    Revoke {
        /// What it is called, as `token list` prints it.
        id: String,
    },
}
