//! Look at a directory of an image: `cargo run --example look IMAGE PATH`. Names with sizes, and the directory as JSON.

use std::os::unix::ffi::OsStrExt;

use ext4kit::device::{Access, ImageSpec};
use ext4kit::inspect::{DirView, ListOptions, json};
use ext4kit::volume::{LastLink, OpenOptions, Owner, Volume};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(image), Some(path)) = (args.next(), args.next()) else {
        return Err("usage: look IMAGE PATH".into());
    };
    // `disk.img@1M` is the filesystem that begins one MiB into a disk image.
    let device = ImageSpec::parse(image).open(Access::ReadOnly)?;
    let volume = Volume::open(device, &OpenOptions::default())?;
    let (ino, inode) = volume.resolve_inode(path.as_bytes(), LastLink::Follow)?;
    let directory = Owner { ino, inode: &inode };
    for entry in volume.read_dir(directory)? {
        let inode = volume.inode(entry.ino)?;
        println!("{:>12}  {}", inode.size(), String::from_utf8_lossy(&entry.name).escape_debug());
    }
    println!("{}", json(&DirView::new(&volume, directory, ListOptions::default())?)?);
    Ok(())
}
