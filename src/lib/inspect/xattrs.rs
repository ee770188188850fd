//! Extended attributes of an inode.

use std::io::{self, Write};

use serde::Serialize;

use super::page::Page;
use super::text::{Name, hex};
use super::{Damage, View};
use crate::units::{Fsblk, Ino};
use crate::volume::{NamedXattr, Owner, Volume, XattrPlace};

/// Longest value that is shown in a list, bytes; longer ones have their length only.
const SHOWN: usize = 64;

/// One attribute.
#[derive(Clone, Debug, Serialize)]
pub struct XattrItem {
    /// Its whole name.
    #[serde(flatten)]
    pub name: Name,
    /// The number that stands for the start of the name on disk.
    pub index: u8,
    /// Where its entry is: `inode` or `block`.
    pub place: &'static str,
    /// The extended attribute block, for those there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block: Option<Fsblk>,
    /// The inode that holds the value, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_inode: Option<Ino>,
    /// Length of the value in bytes.
    pub size: usize,
    /// The value, where it is text (printable UTF-8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// The value as stored, in hexadecimal.
    pub value_hex: String,
    #[serde(skip)]
    bytes: Vec<u8>,
}

impl From<NamedXattr> for XattrItem {
    fn from(x: NamedXattr) -> Self {
        let (place, block) = match x.place {
            XattrPlace::Inode => ("inode", None),
            XattrPlace::Block(block) => ("block", Some(block)),
        };
        Self {
            name: Name(x.name()),
            index: x.index,
            place,
            block,
            value_inode: x.value_ino,
            size: x.value.len(),
            value: as_text(&x.value),
            value_hex: hex(&x.value),
            bytes: x.value,
        }
    }
}

fn as_text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

impl XattrItem {
    /// `name (size) = "value"`, or the value's bytes in hexadecimal.
    pub(super) fn line(&self, page: &mut Page<'_>, always: bool, as_hex: bool) -> io::Result<()> {
        page.bytes(&self.name.0)?;
        write!(page, " ({})", self.size)?;
        if self.size > 0 && (always || self.size <= SHOWN) {
            match &self.value {
                Some(text) if !as_hex => write!(page, " = \"{text}\"")?,
                _ => {
                    write!(page, " =")?;
                    self.bytes.iter().try_for_each(|b| write!(page, " {b:02x}"))?;
                }
            }
        }
        Ok(())
    }

    fn whereabouts(&self) -> String {
        match (self.block, self.value_inode) {
            (None, None) => "in inode".into(),
            (Some(block), None) => format!("in block {block}"),
            (_, Some(ino)) => format!("value in inode {ino}"),
        }
    }
}

/// Attributes of an inode.
#[derive(Debug, Serialize)]
pub struct XattrsView {
    /// Inode.
    pub ino: Ino,
    /// The attributes, those in the inode first.
    pub xattrs: Vec<XattrItem>,
    /// What could not be read.
    pub damage: Vec<Damage>,
    /// Whether the text is the bare attributes, with values of any length.
    #[serde(skip)]
    pub whole: bool,
    /// Whether the text has all values in hexadecimal.
    #[serde(skip)]
    pub as_hex: bool,
}

impl XattrsView {
    /// All attributes of an inode, the filesystem's own ones too.
    pub fn new(volume: &Volume, owner: Owner<'_>) -> Self {
        let (xattrs, damage) = match volume.all_xattrs(owner) {
            Ok(all) => (all.into_iter().map(XattrItem::from).collect(), Vec::new()),
            Err(e) => (Vec::new(), vec![e.into()]),
        };
        Self { ino: owner.ino, xattrs, damage, whole: false, as_hex: false }
    }
}

impl View for XattrsView {
    const SCHEMA: &'static str = "xattrs/1";

    fn text(&self, page: &mut Page<'_>) -> io::Result<()> {
        if self.whole {
            return self.xattrs.iter().try_for_each(|x| {
                x.line(page, true, self.as_hex)?;
                writeln!(page)
            });
        }
        if !self.xattrs.is_empty() {
            writeln!(page, "Extended attributes:")?;
        }
        for x in &self.xattrs {
            write!(page, "  ")?;
            x.line(page, false, self.as_hex)?;
            if page.is_terminal() {
                write!(page, "  [{}]", x.whereabouts())?;
            }
            writeln!(page)?;
        }
        Ok(())
    }

    fn damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }
}
