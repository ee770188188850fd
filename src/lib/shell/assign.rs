//! Commands that set fields of structures by name, and features. Checksums follow; what is written may be damage all the
//! same, which is what they are for. Where the library knows how to do it whole (owner, permissions, size, times of an
//! inode), it does, so that counts and quota follow too.

use std::io::Write;

use zerocopy::{FromBytes, IntoBytes};

use super::args::{Args, number, number32};
use super::fields::{self, Field};
use super::session::Session;
use super::table::{Command, Family, row};
use super::{Failure, Outcome};
use crate::error::Result;
use crate::format::features::{Features, Incompat, RoCompat};
use crate::format::group_desc::GroupDesc;
use crate::format::indirect::POINTERS;
use crate::format::inode::{FileType, Inode, TimeField};
use crate::format::mmp::Mmp;
use crate::format::superblock::Superblock;
use crate::inspect::{FeaturesView, Format};
use crate::namei::Change;
use crate::units::{Fsblk, Group, Ino};
use crate::volume::Volume;
use crate::volume::edit::{OpenInode, modify_block};

/// Blocks that setting a field dirties at most.
const CREDITS: u32 = 8;

pub(super) const COMMANDS: &[Command] = &[
    row(
        "set_inode_field",
        &["sif"],
        "file field value",
        "Set a field of an inode, its content cut or extended with its size (-l: list them)",
        (Family::Raw, inode_field),
    ),
    row(
        "modify_inode",
        &["mi"],
        "file",
        "Ask for each field of an inode (an empty answer keeps it)",
        (Family::Raw, modify_inode),
    ),
    row(
        "set_super_value",
        &["ssv"],
        "field value",
        "Set a field of the superblock (-l: list them)",
        (Family::Raw, super_value),
    ),
    row(
        "set_block_group",
        &["set_bg"],
        "group field value",
        "Set a field of a group's descriptor (-l: list them)",
        (Family::Raw, group_field),
    ),
    row(
        "set_mmp_value",
        &["smmp"],
        "field value",
        "Set a field of the block of multiple-mount protection (-l: list them, clear: as nobody's)",
        (Family::Raw, mmp_value),
    ),
    row(
        "feature",
        &["features"],
        "[feature|-feature]...",
        "Show the filesystem's features, after setting or (-) clearing some",
        (Family::Filesystem, features),
    ),
];

/// With `-l` the names are listed, and nothing else is done.
fn listed(args: &Args<'_>, table: &[Field], out: &mut dyn Write) -> Outcome<bool> {
    if args.words != [b"-l"] {
        return Ok(false);
    }
    let mut rows: Vec<_> = table.iter().flat_map(fields::described).collect();
    if std::ptr::eq(table, fields::INODE) {
        rows.push(("bmap[]".into(), "physical block of a logical one"));
    } else if std::ptr::eq(table, fields::MMP) {
        rows.push(("clear".into(), "all of it as nobody's"));
    }
    rows.iter().try_for_each(|(name, what)| writeln!(out, "\t{name:<25}\t{what}"))?;
    Ok(true)
}

/// The operands; a value may begin with `-`.
fn operands<'a, const N: usize>(args: &Args<'a>) -> Outcome<[&'a [u8]; N]> {
    let words: Vec<&[u8]> = args.words.iter().map(Vec::as_slice).collect();
    words.try_into().map_err(|_| args.usage())
}

fn name_of(word: &[u8]) -> Outcome<&str> {
    std::str::from_utf8(word).map_err(|_| Failure::Usage("a field's name is ASCII".into()))
}

/// What the library does whole; `None` for other fields.
fn whole(session: &mut Session, ino: Ino, name: &str, value: &[u8]) -> Option<Outcome> {
    let inode = match session.volume().map(|v| v.raw_inode(ino)) {
        Ok(Ok(inode)) => inode,
        Ok(Err(e)) => return Some(Err(e.into())),
        Err(e) => return Some(Err(e)),
    };
    // Of what is not in use, only bytes can be set.
    inode.file_type().filter(|_| inode.core().links_count.get() > 0)?;
    let mut change = Change::default();
    let n = || number32(value, "number").ok();
    match name {
        "mode" => {
            let mode = n()?;
            let kind = inode.file_type().map_or(0, FileType::mode_bits);
            if mode & 0o17_0000 != 0 && mode & 0o17_0000 != u32::from(kind) || mode & !0o17_7777 != 0 {
                return None;
            }
            change.permissions = Some((mode & 0o7777) as u16);
        }
        "uid" => change.uid = Some(n()?),
        "gid" => change.gid = Some(n()?),
        // Where there are no projects, only bytes can be set.
        "projid" if session.volume().is_ok_and(keeps_projects) => change.project = Some(n()?),
        "size" if inode.file_type() == Some(FileType::Regular) => {
            let size = number(value, "size").ok()?;
            let edit = session.edit();
            let done = edit.and_then(|e| Ok(e.run_on_content(ino, |n| n.truncate(ino, size))?));
            return Some(done.and_then(|()| keep_times(session, ino, &inode)));
        }
        _ => return None,
    }
    let done = session.edit().and_then(|e| Ok(e.run(|n| n.change(ino, &change))?));
    Some(done.and_then(|()| keep_times(session, ino, &inode)))
}

fn keeps_projects(volume: &Volume) -> bool {
    volume.geometry().features.ro_compat.contains(RoCompat::PROJECT)
}

/// A field is set, nothing else: the times are those of before.
fn keep_times(session: &mut Session, ino: Ino, before: &Inode) -> Outcome {
    let mut inode = session.volume()?.raw_inode(ino)?;
    for which in [TimeField::Change, TimeField::Modify] {
        inode.set_time(which, before.time(which));
    }
    session.edit()?.run_raw(CREDITS, |fs, store| fs.edit(store).put(&mut OpenInode { ino, inode }))?;
    Ok(())
}

fn inode_field(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    if listed(args, fields::INODE, out)? {
        return Ok(());
    }
    let [spec, name, value] = operands(args)?;
    session.edit()?;
    let ino = session.resolve(spec)?;
    set_inode(session, ino, name_of(name)?, value)
}

fn set_inode(session: &mut Session, ino: Ino, name: &str, value: &[u8]) -> Outcome {
    let bare = name.strip_prefix("i_").unwrap_or(name);
    if let Some(done) = whole(session, ino, bare, value) {
        return done;
    }
    if let Some(lblk) = bare.strip_prefix("bmap[").and_then(|n| n.strip_suffix(']')) {
        let lblk = crate::units::Lblk(number32(lblk.as_bytes(), "block number")?);
        return super::rescue::set_block(session, ino, lblk, Fsblk(number(value, "block number")?));
    }
    let now = session.edit()?.now();
    let mut inode = session.volume()?.raw_inode(ino)?;
    fields::set(fields::INODE, "i_", inode.as_bytes_mut(), (bare, value), now)?;
    if matches!(bare, "checksum" | "checksum_lo" | "checksum_hi") {
        return store_as_it_is(session, ino, &inode);
    }
    session.edit()?.run_raw(CREDITS, |fs, store| fs.edit(store).put(&mut OpenInode { ino, inode }))?;
    Ok(())
}

/// Store an inode with the checksum that it has, right or wrong.
fn store_as_it_is(session: &mut Session, ino: Ino, inode: &Inode) -> Outcome {
    let volume = session.volume()?;
    let (byte, block) = volume.inode_offset(ino)?;
    let at = byte.saturating_sub(volume.geometry().byte_of(block)) as usize;
    session.edit()?.run_raw(CREDITS, |_, store| {
        modify_block(store, block, |bytes| {
            bytes.iter_mut().skip(at).zip(inode.as_bytes()).for_each(|(to, from)| *to = *from);
        })
    })?;
    Ok(())
}

/// What `modify_inode` asks for, in order, and the fields.
const ASKED: &[(&str, &str)] = &[
    ("Mode", "mode"),
    ("User ID", "uid"),
    ("Group ID", "gid"),
    ("Size", "size"),
    ("Change time", "ctime"),
    ("Modification time", "mtime"),
    ("Access time", "atime"),
    ("Deletion time", "dtime"),
    ("Links", "links_count"),
    ("Blocks, high part", "blocks_hi"),
    ("Blocks", "blocks_lo"),
    ("Flags", "flags"),
    ("Generation", "generation"),
    ("Block of attributes", "file_acl_lo"),
    ("Size, high part", "size_hi"),
    ("Fragment address", "faddr"),
];

fn modify_inode(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    session.edit()?;
    let ino = session.resolve(o.operand(0))?;
    let asked = ASKED.iter().map(|(question, name)| ((*question).to_owned(), (*name).to_owned()));
    let pointers = (0..POINTERS).map(|n| match n {
        12 => ("Indirect block".into(), "block[ind]".into()),
        13 => ("Double indirect block".into(), "block[dind]".into()),
        14 => ("Triple indirect block".into(), "block[tind]".into()),
        n => (format!("Block pointer {n}"), format!("block[{n}]")),
    });
    for (question, name) in asked.chain(pointers) {
        let inode = session.volume()?.raw_inode(ino)?;
        let Some(field) = fields::place(fields::INODE, "i_", &name) else { continue };
        let old = fields::value(&field, inode.as_bytes());
        let shown = match name.as_str() {
            "mode" => format!("0{old:o}"),
            "flags" | "generation" => format!("{old:#x}"),
            _ => old.to_string(),
        };
        let answer = session.ask(&format!("{question:>30}    [{shown}] "), out)?;
        let Some(answer) = answer.map(|a| a.trim_ascii().to_vec()).filter(|a| !a.is_empty()) else { continue };
        set_inode(session, ino, &name, &answer)?;
    }
    Ok(())
}

fn super_value(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    if listed(args, fields::SUPER, out)? {
        return Ok(());
    }
    let [name, value] = operands(args)?;
    let name = name_of(name)?;
    let name = name.strip_prefix("s_").unwrap_or(name);
    let now = session.edit()?.now();
    let old = session.volume()?.superblock().clone();
    let mut new = old.clone();
    fields::set(fields::SUPER, "s_", new.as_mut_bytes(), (name, value), now)?;
    let f = old.features();
    let seed_is_uuid = f.ro_compat.intersects(RoCompat::METADATA_CSUM | RoCompat::GDT_CSUM)
        && !f.incompat.contains(Incompat::CSUM_SEED);
    if new.uuid != old.uuid && seed_is_uuid {
        return Err(Failure::Usage("uuid: all checksums depend on it".into()));
    }
    store(session, &old, new)
}

/// Store a superblock with other fields than `old`.
fn store(session: &mut Session, old: &Superblock, new: Superblock) -> Outcome {
    if let Some(name) = fields::frozen(old.features(), new.features()) {
        return Err(Failure::Usage(format!("{name}: how everything is laid out depends on it")));
    }
    session.edit()?.run_raw(CREDITS, |fs, store| {
        if new.free_blocks_count() != old.free_blocks_count() || new.free_inodes_count != old.free_inodes_count {
            let geo = fs.volume.geometry();
            fs.alloc.set_counts(new.free_blocks_count() >> geo.cluster_bits, new.free_inodes_count.get().into());
        }
        fs.volume.store_superblock(store, |sb| *sb = new)
    })?;
    Ok(())
}

fn features(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    if !args.words.is_empty() {
        session.edit()?;
        let old = session.volume()?.superblock().clone();
        let mut all = old.features();
        for word in args.words {
            let text = String::from_utf8_lossy(word);
            let (name, on) = match text.strip_prefix(['-', '^']) {
                Some(name) => (name, false),
                None => (&*text, true),
            };
            let bit = Features::parse(name).ok_or_else(|| Failure::Usage(format!("{name}: not a feature")))?;
            all.set(bit, on);
        }
        let mut new = old.clone();
        new.feature_compat = all.compat.bits().into();
        new.feature_incompat = all.incompat.bits().into();
        new.feature_ro_compat = all.ro_compat.bits().into();
        store(session, &old, new)?;
        return session.show(FeaturesView::of(session.volume()?.superblock().features()), out);
    }
    session.show(FeaturesView::of(session.volume()?.geometry().features), out)
}

fn group_field(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    if listed(args, fields::GROUP, out)? {
        return Ok(());
    }
    let [group, name, value] = operands(args)?;
    let group = Group(number32(group, "group")?);
    let name = name_of(name)?;
    let now = session.edit()?.now();
    let volume = session.volume()?;
    if group.0 >= volume.geometry().groups {
        return Err(Failure::Usage(format!("group {group}: there are {}", volume.geometry().groups)));
    }
    let mut desc = volume.group(group)?;
    let bare = name.strip_prefix("bg_").unwrap_or(name);
    let by_hand = bare == "checksum" && value != b"calc";
    if bare != "checksum" || by_hand {
        fields::set(fields::GROUP, "bg_", desc.as_mut_bytes(), (bare, value), now)?;
    }
    session.edit()?.run_raw(CREDITS, |fs, store| {
        fs.volume.store_group(store, group, &desc)?;
        if by_hand { store_checksum(fs.volume.geometry(), store, group, &desc) } else { Ok(()) }
    })?;
    if bare == "checksum" && !by_hand && session.settings().format != Format::Json {
        writeln!(out, "Checksum set to {:#06x}", session.volume()?.group(group)?.checksum.get())?;
    }
    Ok(())
}

/// Put a descriptor's checksum where it belongs, right or wrong.
fn store_checksum(
    geo: &crate::volume::Geometry,
    store: &mut dyn crate::volume::store::MetaStore,
    group: Group,
    desc: &GroupDesc,
) -> Result<()> {
    let index = group.0.checked_div(geo.desc_per_block).unwrap_or(0);
    let nth = group.0.saturating_sub(index.saturating_mul(geo.desc_per_block)) as usize;
    let at = nth.saturating_mul(geo.desc_size.into()).saturating_add(std::mem::offset_of!(GroupDesc, checksum));
    modify_block(store, geo.gdt_block(Fsblk(0), index), |bytes| {
        if let Some(to) = bytes.get_mut(at..at.saturating_add(2)) {
            to.copy_from_slice(desc.checksum.as_bytes());
        }
    })
}

fn mmp_value(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    if listed(args, fields::MMP, out)? {
        return Ok(());
    }
    let now = session.edit()?.now();
    let volume = session.volume()?;
    let geo = volume.geometry();
    if !geo.features.incompat.contains(Incompat::MMP) {
        return Err(Failure::Usage("the filesystem has no multiple-mount protection".into()));
    }
    let block = Fsblk(volume.superblock().mmp_block.get());
    let interval = volume.superblock().mmp_update_interval.get();
    let bytes = volume.block(block)?;
    let Ok((mut mmp, _)) = Mmp::read_from_prefix(&bytes) else { return Err(args.usage()) };
    if let [word] = args.words
        && word == b"clear"
    {
        mmp = Mmp::clean(interval);
    } else {
        let [name, value] = operands(args)?;
        fields::set(fields::MMP, "mmp_", mmp.as_mut_bytes(), (name_of(name)?, value), now)?;
    }
    session.edit()?.leave_mmp(mmp);
    Ok(())
}
