//! Commands about extended attributes.

use std::io::Write;

use super::Outcome;
use super::args::Args;
use super::session::Session;
use super::table::{Command, Family};
use crate::error::Error;
use crate::inspect::XattrsView;
use crate::volume::Owner;

const FAMILY: Family = Family::Xattr;

pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "ea_list",
        aliases: &[],
        args: "file",
        help: "List the extended attributes of a file",
        family: FAMILY,
        run: ea_list,
    },
    Command {
        name: "ea_get",
        aliases: &[],
        args: "[-f host_file] [-x] [-V] [-C] [-r] file name",
        help: "Show an attribute (-V: its value alone, -x: in hexadecimal, -f: into a file, -r: as stored)",
        family: FAMILY,
        run: ea_get,
    },
];

fn ea_list(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("", 1, 1)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    session.show(XattrsView::new(session.volume()?, Owner { ino, inode: &inode }), out)
}

fn ea_get(session: &mut Session, args: &Args<'_>, out: &mut dyn Write) -> Outcome {
    let o = args.options("f:xVCr", 2, 2)?;
    let (ino, inode) = session.inode(o.operand(0))?;
    let all = session.volume()?.all_xattrs(Owner { ino, inode: &inode })?;
    let wanted = o.operand(1);
    let Some(mut x) = all.into_iter().find(|x| x.name() == wanted) else {
        return Err(Error::NotFound { path: wanted.to_vec() }.into());
    };
    if !o.has('r') {
        x.value = x.host_value()?.into_owned();
    }
    if let Some(file) = o.value('f') {
        let path = session.host_path(file);
        return Ok(std::fs::write(&path, &x.value).map_err(|e| Error::host("write", &path, e))?);
    }
    if o.has('V') {
        if !o.has('x') {
            return Ok(out.write_all(&x.value)?);
        }
        x.value.iter().try_for_each(|b| write!(out, "{b:02x} "))?;
        return Ok(writeln!(out)?);
    }
    let view = XattrsView { ino, xattrs: vec![x.into()], damage: Vec::new(), whole: true, as_hex: o.has('x') };
    session.show(view, out)
}
