//! Typed views of a filesystem, each with ONE model that is rendered as text or as JSON.
//!
//! A view is a plain struct with what was found; making it reads the image, showing it does not. [`show`] renders
//! it:
//!
//! - as text with the keys and columns that users of `dumpe2fs`, `debugfs`, `filefrag` and `e2freefrag` know. On a
//!   terminal, tables have lines and fit the width, and control characters in names are escaped; elsewhere columns
//!   are padded with spaces and names are the bytes on disk;
//! - as one line of JSON: `{"schema":"ext4kit/NAME/VERSION", …}`. Within a version, fields may be added, and none
//!   changes its meaning or goes away.
//!
//! Block numbers count filesystem blocks, sizes are in bytes unless the name says otherwise, times are UTC.
//!
//! What is damaged is shown as far as it can be read; what was wrong is part of the model ([`View::damage`]), so that
//! whoever shows a view can end with an error.

mod blocks;
mod bmap;
mod compare;
mod deleted;
mod dir;
mod extents;
mod frag;
mod free;
mod groups;
mod hex;
mod htree;
mod inode;
mod journal;
mod live;
mod log;
mod mmp;
mod names;
mod owners;
mod page;
mod picture;
mod quota;
mod scan;
mod status;
mod superblock;
mod table;
mod text;
mod tree;
mod xattr_raw;
mod xattrs;

pub use blocks::BlocksView;
pub use bmap::{
    BlockMapView, BlockState, BlockStateView, FreeBlocksView, FreeInodeView, InodePlaceView, InodeStateView,
};
pub use compare::{DiffView, Differing};
pub use deleted::{Deleted, DeletedView};
pub use dir::{DirBlockChecksum, DirHashView, DirItem, DirSearchView, DirView, ItemInode, ListOptions, ListStyle};
pub use extents::{ExtentRow, ExtentsFilter, ExtentsView};
pub use frag::{FragRun, FragView, FragsView};
pub use free::{Chunks, FreeSpaceView, SizeClass};
pub use groups::{GroupView, GroupsView, Range};
pub use hex::HexView;
pub use htree::{HtreeChild, HtreeLeaf, HtreeNode, HtreeView, LeafEntry};
pub use inode::{Content, InodeChecksum, InodeTime, InodeView, MapRun};
pub use journal::JournalView;
pub use live::{LiveEntry, LiveFile, LiveView};
pub use log::{End as LogEnd, LogOptions, LogRecord, LogView, LoggedBlock};
pub use mmp::MmpView;
pub use names::{NameHit, NamesView};
pub use owners::{BlockOwner, BlockUse, OwnersView};
pub use page::{Format, Page};
pub use picture::{Cell, MapRow, MapView};
pub use quota::{QuotaRow, QuotaView};
pub use scan::{VisitInode, for_each_inode};
pub use status::{Difference, StatusItem, StatusRow, StatusView, derive};
pub use superblock::{FeaturesView, RecordedError, SuperblockView};
pub use text::{Name, PathText, Target, date};
pub use tree::{Below, FindView, FullView, Room, RoomView, TreeView};
pub use xattr_raw::{RawXattr, RawXattrsView};
pub use xattrs::{XattrItem, XattrsView};

use std::io::{self, Write};

use serde::{Serialize, Serializer};

use crate::error::Error;

/// Something that can be shown as text or JSON.
pub trait View: Serialize {
    /// Name and version of the JSON form.
    const SCHEMA: &'static str;

    /// Render as text.
    ///
    /// # Errors
    /// Only those of writing to the page.
    fn text(&self, page: &mut Page<'_>) -> io::Result<()>;

    /// Take what was found wrong while reading.
    fn damage(&mut self) -> Vec<Damage> {
        Vec::new()
    }
}

/// Something that was found wrong while a view was made.
#[derive(Debug)]
pub struct Damage(pub Error);

impl From<Error> for Damage {
    fn from(e: Error) -> Self {
        Self(e)
    }
}

impl Serialize for Damage {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut object = s.serialize_struct("Damage", 3)?;
        object.serialize_field("kind", self.0.kind())?;
        object.serialize_field("message", &self.0.to_string())?;
        if let Error::Corrupt { place, .. } = &self.0 {
            object.serialize_field("place", place)?;
        } else {
            object.skip_field("place")?;
        }
        object.end()
    }
}

#[derive(Serialize)]
struct Envelope<'a, V> {
    schema: String,
    #[serde(flatten)]
    view: &'a V,
}

/// A view as JSON, with its schema first.
///
/// # Errors
/// None in practice: the models have no maps with keys other than strings.
pub fn json<V: View>(view: &V) -> serde_json::Result<serde_json::Value> {
    serde_json::to_value(Envelope { schema: schema::<V>(), view })
}

fn schema<V: View>() -> String {
    format!("ext4kit/{}", V::SCHEMA)
}

/// Show a view.
///
/// # Errors
/// Those of writing to `out`.
pub fn show<V: View>(view: &V, format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Text { width } => {
            let mut page = Page::new(out, width);
            view.text(&mut page)
        }
        Format::Json => {
            serde_json::to_writer(&mut *out, &Envelope { schema: schema::<V>(), view })?;
            out.write_all(b"\n")
        }
    }
}
