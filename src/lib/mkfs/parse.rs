//! The option arguments of mke2fs: `-E`, `-J`, `-e`, `-o`, owners and UUIDs, by their names there.

use super::options::{Amount, OnError, Options, QuotaTypes, invalid};
use crate::error::{Error, Result};
use crate::format::casefold;

/// What `-E` and `-J` say that is not about the filesystem itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    /// Byte of the device where the filesystem starts (`offset=`).
    pub offset: u64,
    /// Keep what a block device holds in blocks that are not written (`nodiscard`).
    pub keep_blocks: bool,
    /// Do not copy extended attributes from the source (`no_copy_xattrs`).
    pub no_copy_xattrs: bool,
    /// The root directory belongs to whoever runs this (`root_owner` without a value).
    pub root_owner_is_caller: bool,
    /// The device reads as zeros already (`assume_storage_prezeroed`).
    pub prezeroed: bool,
    /// Security context of the root directory (`root_selinux`).
    pub root_context: Option<String>,
    /// The journal's device (`-J device=`).
    pub journal_device: Option<String>,
}

const EXTENDED: &str = "assume_storage_prezeroed, desc_size, discard, encoding, encoding_flags, hash_seed, lazy_itable_init, lazy_journal_init, \
                        mmp_update_interval, no_copy_xattrs, nodiscard, num_backup_sb, offset, orphan_file_size, \
                        packed_meta_blocks, quotatype, resize, revision, \
                        root_owner, root_perms, root_selinux, stride, stripe_width, test_fs";

/// Apply `-E text` to `options`.
///
/// # Errors
/// [`Error::InvalidArgument`] for names and values that do not exist.
pub fn extended(options: &mut Options, extra: &mut Extra, text: &str) -> Result<()> {
    for item in text.split(',').filter(|i| !i.is_empty()) {
        let (name, value) = match item.split_once('=') {
            Some((n, v)) => (n, Some(v)),
            None => (item, None),
        };
        let need = || value.ok_or_else(|| invalid("extended option", item, "name=value"));
        let switch = || value.map_or(Ok(true), |v| number(v).map(|n: u32| n != 0));
        match name {
            "desc_size" | "desc-size" => options.desc_size = Some(number(need()?)?),
            "hash_seed" => options.hash_seed = uuid(need()?)?,
            "offset" => extra.offset = number(need()?)?,
            "mmp_update_interval" => options.mmp_update_interval = number(need()?)?,
            "no_copy_xattrs" => extra.no_copy_xattrs = true,
            "num_backup_sb" => options.backups = number(need()?)?,
            "packed_meta_blocks" => options.packed_meta_blocks = switch()?,
            "stride" => options.stride = number(need()?)?,
            "stripe-width" | "stripe_width" => options.stripe_width = number(need()?)?,
            "resize" => options.resize_to = Some(Amount::parse(need()?)?),
            "test_fs" => options.test_fs = true,
            "lazy_itable_init" => options.lazy_itable_init = switch()?,
            "lazy_journal_init" => options.lazy_journal_init = switch()?,
            "root_owner" => match value {
                Some(v) => options.root_owner = Some(owner(v)?),
                None => extra.root_owner_is_caller = true,
            },
            "root_perms" => {
                let bits = u16::from_str_radix(need()?, 8).ok().filter(|b| *b <= 0o7777);
                options.root_perms =
                    Some(bits.ok_or_else(|| invalid("root_perms", item, "an octal number of at most 7777"))?);
            }
            "root_selinux" => extra.root_context = Some(need()?.to_owned()),
            "assume_storage_prezeroed" => extra.prezeroed = switch()?,
            "revision" => options.revision_0 = number::<u32>(need()?)? == 0,
            "discard" => extra.keep_blocks = false,
            "nodiscard" => extra.keep_blocks = true,
            "quotatype" => options.quota = quota_types(need()?)?,
            "encoding" => encoding(options, need()?)?,
            "encoding_flags" => match need()? {
                "strict" => options.strict_encoding = true,
                "no_strict" => options.strict_encoding = false,
                v => return Err(invalid("encoding flag", v, "strict or no_strict")),
            },
            "orphan_file_size" => options.orphan_file_size = Some(Amount::parse(need()?)?),
            _ => return Err(invalid("extended option", item, EXTENDED)),
        }
    }
    Ok(())
}

fn encoding(options: &mut Options, name: &str) -> Result<()> {
    if casefold::encoding(name).is_none() {
        return Err(invalid("encoding", name, "utf8 or utf8-12.1"));
    }
    options.features.extend(super::FeatureEdit::parse_list("casefold")?);
    options.encoding = true;
    Ok(())
}

/// Apply `-J text` to `options`.
///
/// # Errors
/// [`Error::InvalidArgument`] for names and values that do not exist.
pub fn journal(options: &mut Options, extra: &mut Extra, text: &str) -> Result<()> {
    for item in text.split(',').filter(|i| !i.is_empty()) {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        match name {
            "size" => {
                options.journal.size_mib = Some(number(value)?);
                options.journal.wanted = true;
            }
            "fast_commit_size" => options.journal.fast_commit_kib = Some(number(value)?),
            "location" => options.journal.location = Some(Amount::parse(value)?),
            "device" if !value.is_empty() => {
                extra.journal_device = Some(value.to_owned());
                options.journal.wanted = true;
            }
            _ => return Err(invalid("journal option", item, "size=, fast_commit_size=, location=, device=")),
        }
    }
    Ok(())
}

/// The behaviour that `-e` names.
///
/// # Errors
/// [`Error::InvalidArgument`] for any other name.
pub fn on_error(name: &str) -> Result<OnError> {
    match name {
        "continue" => Ok(OnError::Continue),
        "remount-ro" => Ok(OnError::ReadOnly),
        "panic" => Ok(OnError::Panic),
        _ => Err(invalid("error behaviour", name, "continue, remount-ro or panic")),
    }
}

/// The operating system that `-o` names, by name or number.
///
/// # Errors
/// [`Error::InvalidArgument`] for any other name.
pub fn creator_os(name: &str) -> Result<u32> {
    match name.to_ascii_lowercase().as_str() {
        "linux" => Ok(0),
        "gnu" | "hurd" => Ok(1),
        "masix" => Ok(2),
        "freebsd" => Ok(3),
        "lites" => Ok(4),
        other => other.parse().map_err(|_| invalid("operating system", name, "linux, hurd, masix, freebsd, lites")),
    }
}

/// `UID:GID`.
///
/// # Errors
/// [`Error::InvalidArgument`] for anything else.
pub fn owner(text: &str) -> Result<(u32, u32)> {
    text.split_once(':')
        .and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)))
        .ok_or_else(|| invalid("owner", text, "UID:GID, both numbers"))
}

/// A UUID's bytes.
///
/// # Errors
/// [`Error::InvalidArgument`] for anything else.
pub fn uuid(text: &str) -> Result<[u8; 16]> {
    uuid::Uuid::try_parse(text).map(uuid::Uuid::into_bytes).map_err(|_| invalid("UUID", text, "32 hexadecimal digits"))
}

fn quota_types(text: &str) -> Result<QuotaTypes> {
    let mut q = QuotaTypes { user: false, group: false, project: false };
    for word in text.split(':') {
        match word {
            "usr" | "usrquota" => q.user = true,
            "grp" | "grpquota" => q.group = true,
            "prj" | "prjquota" => q.project = true,
            _ => return Err(invalid("quota type", word, "usrquota, grpquota or prjquota")),
        }
    }
    Ok(q)
}

/// A number, decimal or with 0x.
fn number<T: TryFrom<u64>>(text: &str) -> Result<T, Error> {
    let n = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    };
    n.and_then(|n| T::try_from(n).ok()).ok_or_else(|| invalid("number", text, "a number in range"))
}

#[cfg(test)]
mod tests {
    use super::super::options::Size;
    use super::*;
    use crate::env::Timestamp;

    #[test]
    fn names_and_values_are_checked() {
        let mut o = Options::new(Size::Units(1), [0; 16], [0; 16], Timestamp::default());
        let mut x = Extra::default();
        extended(&mut o, &mut x, "stride=0x20,stripe-width=64,lazy_itable_init=0,offset=1048576,resize=4G").unwrap();
        assert_eq!((o.stride, o.stripe_width, o.lazy_itable_init), (32, 64, false));
        assert_eq!((x.offset, o.resize_to), (1 << 20, Some(Amount::Bytes(4 << 30))));
        for bad in ["nonsense", "stride", "stride=x", "hash_seed=1", "encoding=latin1", "quotatype=all", "desc_size=-1"]
        {
            assert!(extended(&mut o, &mut x, bad).is_err(), "{bad}");
        }
        journal(&mut o, &mut x, "size=8,device=/dev/sdx1").unwrap();
        assert_eq!((o.journal.size_mib, x.journal_device.as_deref()), (Some(8), Some("/dev/sdx1")));
        assert!(journal(&mut o, &mut x, "device=").is_err());
        assert_eq!(owner("1:2").unwrap(), (1, 2));
        assert!(owner("1:").is_err());
    }
}
