//! Defaults by what a filesystem is called and what it is for, in the language of mke2fs.conf(5).
//!
//! A [`Conf`] has values under `[defaults]`, and under `[fs_types]` for types (`ext4`) and usages (`small`). A filesystem
//! has a list of them, its type first; the last one that has a value for a name decides, then `[defaults]`. Edits of
//! features add up instead, from the first to the last.
//!
//! The ones built in ([`PROFILES`]) do not depend on the host; a file of the host's is read where it is asked for. Sizes are
//! in bytes.

use std::collections::BTreeMap;

use super::options::{Amount, FeatureEdit, Options, invalid};
use super::parse;
use crate::error::Result;
use crate::format::dirhash::HashVersion;
use crate::format::features::Features;
use crate::format::superblock::{DATA_MODES, MOUNT_OPTIONS};

/// A set of defaults that is built in.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// What it is called.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    text: &'static str,
}

impl Profile {
    /// The profile of that name.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] where there is none.
    pub fn find(name: &str) -> Result<Self> {
        let known = "default, linux-5.10, grub2, android, ext2-boot";
        PROFILES.iter().find(|p| p.name == name).copied().ok_or_else(|| invalid("profile", name, known))
    }

    /// Its values.
    ///
    /// # Errors
    /// As [`Conf::parse`].
    pub fn conf(self) -> Result<Conf> {
        let mut conf = Conf::parse(self.text)?;
        conf.complete(&Conf::parse(USAGES)?);
        Ok(conf)
    }
}

/// The profiles built in, the default first.
pub const PROFILES: &[Profile] = &[
    Profile {
        name: "default",
        about: "what mke2fs 1.47.4 makes",
        text: "
[fs_types]
    ext3 = {
        features = has_journal
    }
    ext4 = {
        features = has_journal,extent,huge_file,flex_bg,metadata_csum,metadata_csum_seed,64bit,dir_nlink,extra_isize,orphan_file
    }
",
    },
    Profile {
        name: "linux-5.10",
        about: "for kernels from 5.10 on, and programs of their time: no orphan file, the UUID as seed of the checksums",
        text: OLDER,
    },
    Profile {
        name: "grub2",
        about: "for a filesystem that GRUB 2 (2.02 and later) reads: nothing that it refuses",
        text: OLDER,
    },
    Profile {
        name: "android",
        about: "for the partitions of Android: nothing is resized, one percent is reserved",
        text: "
[defaults]
    base_features = sparse_super,large_file,filetype,dir_index,ext_attr
    reserved_ratio = 1.0
[fs_types]
    ext3 = {
        features = has_journal
    }
    ext4 = {
        features = has_journal,extent,huge_file,dir_nlink,extra_isize,uninit_bg
    }
",
    },
    Profile {
        name: "ext2-boot",
        about: "for boot loaders that know ext2 only: no journal, no index, inodes of 128 bytes (times end in 2038)",
        text: "
[defaults]
    fs_type = ext2
    base_features = sparse_super,large_file,filetype
    inode_size = 128
    default_mntopts = \"\"
",
    },
];

/// What kernels and programs of 2020 know.
const OLDER: &str = "
[fs_types]
    ext3 = {
        features = has_journal
    }
    ext4 = {
        features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
    }
";

/// What the profiles have in common: the usages, and what all of them start from.
const USAGES: &str = "
[defaults]
    fs_type = ext4
    base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
    default_mntopts = acl,user_xattr
    enable_periodic_fsck = 0
    blocksize = 4096
    inode_size = 256
    inode_ratio = 16384
[fs_types]
    small = {
        blocksize = 1024
        inode_ratio = 4096
    }
    floppy = {
        blocksize = 1024
        inode_ratio = 8192
    }
    big = {
        inode_ratio = 32768
    }
    huge = {
        inode_ratio = 65536
    }
    news = {
        inode_ratio = 4096
    }
    largefile = {
        inode_ratio = 1048576
        blocksize = -1
    }
    largefile4 = {
        inode_ratio = 4194304
        blocksize = -1
    }
    hurd = {
        blocksize = 4096
        inode_size = 128
    }
";

/// Values that ask for what is not done where they are true.
const NOT_DONE: &[&str] = &["make_hugefiles", "force_undo"];

/// Bits of the data mode.
const DATA_MODE: u32 = 0x60;

type Values = BTreeMap<String, String>;

/// Defaults for new filesystems.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conf {
    defaults: Values,
    types: BTreeMap<String, Values>,
    devices: BTreeMap<String, Values>,
}

impl Conf {
    /// The values of a file in the language of mke2fs.conf. Other sections than `[defaults]`, `[fs_types]` and `[devices]` are passed over;
    /// where a value is given twice the first counts.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] with the number of a line that is not understood; for values that ask for something that is
    /// not done.
    pub fn parse(text: &str) -> Result<Self> {
        let mut conf = Self::default();
        let mut section = "";
        let mut within: Option<String> = None;
        // A tag alone: its { is on the next line.
        let mut alone: Option<String> = None;
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with([';', '#']) {
                continue;
            }
            let bad = |why| invalid("line of the configuration", format!("{} ({line})", n + 1), why);
            if let Some(tag) = alone.take() {
                if line != "{" || within.is_some() {
                    return Err(bad("a value, or a { on the line behind its tag"));
                }
                within = Some(tag);
            } else if let Some(name) = line.strip_prefix('[') {
                if within.is_some() {
                    return Err(bad("a } before the next section"));
                }
                section = name.strip_suffix(']').ok_or_else(|| bad("a section's name in brackets"))?.trim();
            } else if line == "}" {
                within.take().ok_or_else(|| bad("a } only where a { is open"))?;
            } else {
                let (tag, value) = line.split_once('=').ok_or_else(|| bad("tag = value"))?;
                let (tag, value) = (tag.trim().to_owned(), value.trim());
                match (section, &within) {
                    (_, None) if value.is_empty() => alone = Some(tag),
                    (_, None) if value == "{" => within = Some(tag),
                    _ if value.is_empty() => return Err(bad("a value")),
                    _ if value.starts_with('{') => return Err(bad("one { inside a section, at the end of its line")),
                    ("defaults", None) => insert(&mut conf.defaults, tag, value),
                    ("fs_types", Some(of)) => insert(conf.types.entry(of.clone()).or_default(), tag, value),
                    ("devices", Some(of)) => insert(conf.devices.entry(of.clone()).or_default(), tag, value),
                    ("", _) => return Err(bad("a section's name in brackets first")),
                    _ => {}
                }
            }
        }
        if within.is_some() || alone.is_some() {
            return Err(invalid("end of the configuration", "", "a } for each {"));
        }
        conf.check()
    }

    fn check(self) -> Result<Self> {
        for (tag, value) in self.types.values().chain([&self.defaults]).flatten() {
            if NOT_DONE.contains(&tag.as_str()) && truth(value)? {
                return Err(invalid("configured value", format!("{tag} = {value}"), "false: it is not done"));
            }
        }
        Ok(self)
    }

    /// Take what is missing from `other`.
    fn complete(&mut self, other: &Self) {
        for (tag, value) in &other.defaults {
            self.defaults.entry(tag.clone()).or_insert_with(|| value.clone());
        }
        for (name, values) in &other.types {
            self.types.entry(name.clone()).or_insert_with(|| values.clone());
        }
    }

    /// The filesystem type where none is asked for.
    pub fn fs_type(&self) -> Option<&str> {
        self.defaults.get("fs_type").map(String::as_str)
    }

    /// What `[devices]` says about a device: filesystem type and usages.
    pub fn of_device(&self, name: &str) -> (Option<&str>, Option<&str>) {
        let value = |tag| self.devices.get(name)?.get(tag).map(String::as_str);
        (value("fs_type"), value("usage_types"))
    }

    /// The extended options (as those of `-E`) of a list of types, one behind the other.
    pub fn extended<'c>(&'c self, types: &'c [&str]) -> impl Iterator<Item = &'c str> {
        types.iter().filter_map(|t| self.types.get(*t)?.get("options")).map(String::as_str)
    }

    /// Whether there is a type or usage of that name.
    pub fn knows(&self, name: &str) -> bool {
        self.types.contains_key(name)
    }

    /// The value of `tag` for a list of types.
    pub(crate) fn get(&self, types: &[&str], tag: &str) -> Option<&str> {
        let of_types = types.iter().rev().find_map(|t| self.types.get(*t)?.get(tag));
        of_types.or_else(|| self.defaults.get(tag)).map(String::as_str)
    }

    /// A number for a list of types.
    pub(crate) fn number<T: std::str::FromStr>(&self, types: &[&str], tag: &'static str) -> Result<Option<T>> {
        let parsed = |text: &str| text.parse().map_err(|_| invalid(tag, text, "a number"));
        self.get(types, tag).filter(|t| !t.is_empty()).map(parsed).transpose()
    }

    /// The features of a list of types, before those that are asked for.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for features that do not exist.
    pub(crate) fn features(&self, types: &[&str]) -> Result<Features> {
        let mut features = Features::default();
        let base =
            self.get(types, "base_features").unwrap_or("sparse_super,large_file,filetype,resize_inode,dir_index");
        let edits = types.iter().filter_map(|t| self.types.get(*t)?.get("features")).map(String::as_str);
        for list in std::iter::once(base).chain(edits) {
            for edit in FeatureEdit::parse_list(list)? {
                edit.apply(&mut features);
            }
        }
        Ok(features)
    }

    /// Set what `options` starts from, for a list of types: all but features, block, inode and cluster sizes and the inode
    /// ratio, which also depend on how big the filesystem is.
    ///
    /// # Errors
    /// [`crate::Error::InvalidArgument`] for values that do not exist.
    pub fn preset(&self, options: &mut Options, types: &[&str]) -> Result<()> {
        let flag = |tag| self.get(types, tag).map(truth).transpose();
        if let Some(percent) = self.number(types, "reserved_ratio")? {
            options.reserved_percent = percent;
        }
        if let Some(n) = self.number(types, "num_backup_sb")? {
            options.backups = n;
        }
        options.packed_meta_blocks = flag("packed_meta_blocks")?.unwrap_or(options.packed_meta_blocks);
        options.lazy_itable_init = flag("lazy_itable_init")?.unwrap_or(options.lazy_itable_init);
        options.lazy_journal_init = flag("lazy_journal_init")?.unwrap_or(options.lazy_journal_init);
        options.periodic_check = flag("enable_periodic_fsck")?.unwrap_or(options.periodic_check);
        if let Some(at) = self.get(types, "journal_location").filter(|at| !at.is_empty()) {
            options.journal.location = Some(Amount::parse(at)?);
        }
        if let Some(name) = self.get(types, "errors") {
            options.on_error = parse::on_error(name)?;
        }
        if let Some(name) = self.get(types, "creator_os") {
            options.creator_os = parse::creator_os(name)?;
        }
        if let Some(name) = self.get(types, "hash_alg") {
            options.hash = match name {
                "legacy" => HashVersion::Legacy,
                "half_md4" => HashVersion::HalfMd4,
                "tea" => HashVersion::Tea,
                _ => return Err(invalid("hash_alg", name, "legacy, half_md4 or tea")),
            };
        }
        if let Some(list) = self.get(types, "default_mntopts") {
            options.mount_options = mount_options(list)?;
        }
        Ok(())
    }
}

fn insert(values: &mut Values, tag: String, value: &str) {
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    values.entry(tag).or_insert_with(|| value.to_owned());
}

/// A truth value, spelled as liberally as mke2fs.conf allows.
fn truth(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "t" | "1" | "on" => Ok(true),
        "n" | "no" | "false" | "nil" | "0" | "off" => Ok(false),
        _ => Err(invalid("truth value", text, "yes or no")),
    }
}

/// The bits of `s_default_mount_opts` that a list names.
fn mount_options(list: &str) -> Result<u32> {
    let mut word = 0;
    for name in list.split([',', ' ']).filter(|n| !n.is_empty()) {
        let (name, on) = name.strip_prefix('^').map_or((name, true), |n| (n, false));
        if let Some((mode, _)) = DATA_MODES.iter().find(|(_, n)| *n == name) {
            word = word & !DATA_MODE | if on { *mode } else { 0 };
            continue;
        }
        let (mask, _) = MOUNT_OPTIONS
            .iter()
            .find(|(_, n)| *n == name)
            .ok_or_else(|| invalid("default mount option", name, "one that the superblock can hold"))?;
        word = if on { word | mask } else { word & !mask };
    }
    Ok(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_type_decides_and_features_add_up() {
        let text = "
# a comment
[defaults]
    base_features = sparse_super,filetype,resize_inode,dir_index
    blocksize = 4096
    inode_ratio = \"16384\"
[other]
    whatever = {
        a = b
    }
[fs_types]
    ext4 = {
        features = extents,flex_bg
        inode_size = 256
    }
    floppy = {
        features = ^resize_inode
        inode_size = 128
        inode_size = 512
    }
";
        let conf = Conf::parse(text).unwrap();
        let both = ["ext4", "floppy"];
        assert_eq!(conf.number::<u32>(&both, "inode_size").unwrap(), Some(128));
        assert_eq!(conf.number::<u32>(&["ext4"], "inode_size").unwrap(), Some(256));
        assert_eq!(conf.number::<u32>(&both, "inode_ratio").unwrap(), Some(16384));
        assert!(conf.get(&both, "a").is_none() && conf.knows("floppy") && !conf.knows("whatever"));
        let names =
            |types: &[&str]| conf.features(types).unwrap().bits().filter_map(|b| b.name).collect::<Vec<_>>().join(" ");
        assert_eq!(names(&["ext3"]), "resize_inode dir_index filetype sparse_super");
        assert_eq!(names(&both), "dir_index filetype extent flex_bg sparse_super");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_line() {
        for (text, line) in [
            ("a = b", "1 "),
            ("[defaults]\nfoo", "2 "),
            ("[defaults\n", "1 "),
            ("[defaults]\n}", "2 "),
            ("[fs_types]\nx = {\ny = {\n}", "3 "),
            ("[fs_types]\nx = {\n[defaults]", "3 "),
            ("[fs_types]\nx = {\n", ""),
            ("[fs_types]\nx = { a = b }", "2 "),
            ("[fs_types]\nx =\na = b\n}", "3 "),
            ("[defaults]\nx =", ""),
        ] {
            let e = Conf::parse(text).unwrap_err().to_string();
            assert!(e.contains(line), "{text:?}: {e}");
        }
        assert!(Conf::parse("[defaults]\nmake_hugefiles = yes").is_err());
        assert!(Conf::parse("[defaults]\nmake_hugefiles = maybe").is_err());
    }

    #[test]
    fn all_profiles_can_be_read() {
        for profile in PROFILES {
            let conf = Profile::find(profile.name).unwrap().conf().unwrap();
            assert!(conf.knows("largefile4") && conf.fs_type().is_some(), "{}", profile.name);
            assert!(conf.features(&["ext4"]).is_ok(), "{}", profile.name);
        }
        let e = Profile::find("windows").unwrap_err().to_string();
        assert!(PROFILES.iter().all(|p| e.contains(p.name)), "{e}");
    }
}
