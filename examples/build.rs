//! Make an image of a directory: `cargo run --example build DIRECTORY IMAGE`. The same directory gives the same bytes.

use ext4kit::device::{BlockDevice, NewFile};
use ext4kit::env::Timestamp;
use ext4kit::mkfs::{Layout, Options, Size};
use ext4kit::populate::{Files, Gathered, HostDir, Slack, Source, build, fit};
use ext4kit::progress::Silent;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(directory), Some(image)) = (args.next(), args.next()) else {
        return Err("usage: build DIRECTORY IMAGE".into());
    };
    let source = HostDir::open(directory)?;
    let tree = source.list(1, &Silent)?;
    // Identifiers and the time are parameters: the library makes up none.
    let mut options =
        Options::new(Size::Device(0), *b"an example's id.", *b"a seed of hashes", Timestamp::from_secs(0));
    let attributes = Gathered::read(&source, &tree, 1, &Silent)?;
    fit(&mut options, &tree, &attributes, Slack::default())?;
    let layout = Layout::new(&options)?;
    let file = NewFile::create(&image, layout.byte_len())?;
    let files = Files { source: &source, tree: &tree, attributes: Some(attributes) };
    build(layout, files, file.device(), true, 1, &Silent)?;
    println!("{} files, {} bytes", tree.len(), file.device().len());
    file.publish()?;
    Ok(())
}
