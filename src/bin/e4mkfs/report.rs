//! What is said about the filesystem: as text before it is made, as JSON when it is, and what it does not hold.

use std::io::Write;

use ext4kit::cli::{Failure, Session};
use ext4kit::image::Verity;
use ext4kit::mkfs::{Draft, Layout};
use ext4kit::populate::{Dropped, Tree};

/// A few lines about the layout.
pub(crate) fn describe(l: &Layout, session: &Session) -> Result<(), Failure> {
    let mut out = session.out();
    writeln!(
        out,
        "{} blocks of {} bytes in {} groups, {} inodes",
        l.block_count(),
        l.block_size(),
        l.group_count(),
        l.inode_count()
    )?;
    writeln!(out, "journal: {} blocks", l.journal().total())?;
    writeln!(out, "features: {}", features(l).join(" "))?;
    Ok(())
}

/// More about the filesystem that was made.
pub(crate) fn verbose(draft: &Draft, uuid: [u8; 16], discarded: bool, session: &Session) -> Result<(), Failure> {
    let mut out = session.out();
    let l = draft.layout();
    writeln!(out, "UUID: {}", uuid::Uuid::from_bytes(uuid))?;
    let copies: Vec<String> = l.superblock_copies().map(|b| b.to_string()).collect();
    writeln!(out, "copies of the superblock: {}", if copies.is_empty() { "none".into() } else { copies.join(" ") })?;
    writeln!(out, "in use: {} blocks", l.block_count() - draft.free_blocks())?;
    if discarded {
        writeln!(out, "the device gave up what its blocks held")?;
    }
    Ok(())
}

fn features(l: &Layout) -> Vec<String> {
    l.features().bits().map(|b| b.to_string()).collect()
}

/// Everything as JSON. `written` says whether there is an image.
pub(crate) fn summary(
    draft: &Draft,
    tree: Option<&Tree>,
    written: bool,
    verity: Option<&Verity>,
    session: &Session,
) -> Result<(), Failure> {
    let l = draft.layout();
    let mut summary = serde_json::json!({
        "written": written, "size": l.byte_len(), "blocks": l.block_count(), "block_size": l.block_size(),
        "inodes": l.inode_count(), "inode_size": l.inode_size(), "groups": l.group_count(),
        "journal_blocks": l.journal().total(), "free_blocks": draft.free_blocks(), "features": features(l),
        "files": tree.map_or(0, Tree::len), "bytes": tree.map_or(0, Tree::data_bytes),
    });
    if let (Some(v), Some(all)) = (verity, summary.as_object_mut()) {
        let tree = serde_json::json!({
            "root_hash": hex(&v.root_hash), "hash_offset": v.hash_offset, "data_blocks": v.data_blocks,
        });
        all.insert("verity".into(), tree);
    }
    writeln!(session.out(), "{summary}")?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, b| text + &format!("{b:02x}"))
}

/// Say what opens the hash tree; on standard error where the image goes to standard output.
pub(crate) fn root_hash(v: &Verity, to_stdout: bool, session: &Session) -> Result<(), Failure> {
    let text = format!("root hash: {}\nhash offset: {}\n", hex(&v.root_hash), v.hash_offset);
    if to_stdout {
        std::io::stderr().write_all(text.as_bytes())?;
    } else {
        session.out().write_all(text.as_bytes())?;
    }
    Ok(())
}

/// Say which extended attributes are not in the image.
pub(crate) fn tell(dropped: &[Dropped], session: &Session) {
    for d in dropped {
        let (name, path) = (String::from_utf8_lossy(&d.name), String::from_utf8_lossy(&d.path));
        let more = if d.files > 1 { format!(" and of {} more files", d.files - 1) } else { String::new() };
        session.warn(format_args!("the filesystem cannot hold the attribute {name} of /{path}{more}"));
    }
}
