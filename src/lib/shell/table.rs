//! The command table: one row for each command, one file for each family.

use std::io::Write;

use super::args::Args;
use super::session::Session;
use super::{
    Outcome, assign, block, change, copy, dir, extents, file, fs, inode, journal, metadata, misc, raw, rescue, search,
    through, undo, walk, xattr,
};

/// What runs a command.
pub(super) type Run = fn(&mut Session, &Args<'_>, &mut dyn Write) -> Outcome;

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// The filesystem as a whole.
    Filesystem,
    /// Directories and paths.
    Directory,
    /// Content of files.
    File,
    /// Inodes.
    Inode,
    /// Extended attributes.
    Xattr,
    /// Blocks.
    Block,
    /// Changes (an image opened with `-w`).
    Change,
    /// Changes of single blocks, inodes and fields.
    Raw,
    /// The extents of one inode.
    Extents,
    /// The journal's log.
    Journal,
    /// The filesystem in use.
    Through,
    /// The shell itself.
    Shell,
}

impl Family {
    /// A heading for its commands.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Filesystem => "Filesystem",
            Self::Directory => "Directories and paths",
            Self::File => "Content of files",
            Self::Inode => "Inodes",
            Self::Xattr => "Extended attributes",
            Self::Block => "Blocks",
            Self::Change => "Changes (with -w)",
            Self::Extents => "Extents of an inode (after extent_open; changes with -w)",
            Self::Journal => "The journal's log (with -w)",
            Self::Raw => "Single blocks, inodes and fields (with -w)",
            Self::Through => "The write path (with -w)",
            Self::Shell => "Shell",
        }
    }
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Other names, debugfs's among them.
    pub aliases: &'static [&'static str],
    /// What follows the name.
    pub args: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// What it is about.
    pub family: Family,
    /// What runs it.
    pub(super) run: Run,
}

impl Command {
    /// Name and arguments.
    pub fn synopsis(&self) -> String {
        if self.args.is_empty() { self.name.into() } else { format!("{} {}", self.name, self.args) }
    }
}

/// A row of the table.
pub(super) const fn row(
    name: &'static str,
    aliases: &'static [&'static str],
    args: &'static str,
    help: &'static str,
    (family, run): (Family, Run),
) -> Command {
    Command { name, aliases, args, help, family, run }
}

/// All commands, by family.
pub fn commands() -> impl Iterator<Item = &'static Command> {
    [
        fs::COMMANDS,
        metadata::COMMANDS,
        dir::COMMANDS,
        file::COMMANDS,
        inode::COMMANDS,
        xattr::COMMANDS,
        block::COMMANDS,
        walk::COMMANDS,
        change::COMMANDS,
        undo::COMMANDS,
        through::COMMANDS,
        raw::COMMANDS,
        assign::COMMANDS,
        rescue::COMMANDS,
        search::COMMANDS,
        copy::COMMANDS,
        extents::COMMANDS,
        journal::COMMANDS,
        misc::COMMANDS,
    ]
    .into_iter()
    .flatten()
}

/// The command of a name or alias.
pub fn find(name: &str) -> Option<&'static Command> {
    commands().find(|c| c.name == name || c.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_described() {
        let mut seen = BTreeSet::new();
        for c in commands() {
            for name in std::iter::once(&c.name).chain(c.aliases) {
                assert!(seen.insert(*name), "{name} is there twice");
            }
            assert!(!c.help.is_empty() && !c.help.ends_with('.'), "{}", c.name);
        }
    }

    /// debugfs's names for what is there already.
    #[test]
    fn users_of_debugfs_find_their_names() {
        let names = "show_super_stats stats stat show_inode_info list_directory ls cat dump dump_inode dump_extents \
            extents ex blocks bmap icheck ncheck htree_dump htree cd chroot change_working_directory \
            change_root_directory pwd print_working_directory imap testi testb find_free_block ffb \
            find_free_inode ffi ea_list ea_get dx_hash hash freefrag e2freefrag filefrag inode_dump idump id \
            supported_features feature features dirsearch help list_requests lr ? quit q open open_filesys \
            close close_filesys params show_debugfs_params block_dump bdump bd lcd dump_mmp list_quota lq \
            get_quota gq write mkdir rmdir rm unlink ln link symlink mknod ea_set ea_rm punch truncate \
            set_inode_field sif rdump lsdel list_deleted_inodes dump_unused logdump \
            freeb setb freei seti clri zap_block zap set_super_value ssv dirty_filesys dirty set_current_time \
            set_block_group set_bg set_mmp_value smmp modify_inode mi kill_file undelete undel copy_inode expand_dir expand \
            fallocate journal_open jo journal_write jw journal_run jr journal_close jc extent_open eo extent_close ec \
            current_node current root_node root last_leaf first_sib last_sib next_sib ns prev_sib ps next_leaf prev_leaf \
            next n prev p up u down d delete_node delete insert_node insert split_node split set_bmap replace_node replace \
            print_all all fix_parents fixp info goto_block goto cp grep hexdump diff map";
        for name in names.split_whitespace() {
            assert!(find(name).is_some(), "{name}");
        }
    }
}
