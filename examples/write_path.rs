//! Run a script of file operations through the write path: `cargo run --example write_path [SCRIPT.json]`. The state after each
//! operation goes out as JSON. Without a script: a delayed write that becomes an extent.

use std::sync::Arc;

use ext4kit::device::BlockDevice;
use ext4kit::env::Timestamp;
use ext4kit::file::PathChoice;
use ext4kit::script::{Script, Settings, make, run};

const DELAYED: &[u8] = br#"{"size": "16M", "mkfs": ["-b", 4096], "ops": [
    {"op": "write", "file": "f", "off": 0, "len": 20000},
    {"op": "fallocate", "file": "f", "off": 65536, "len": 16384},
    {"op": "fsync", "file": "f"}]}"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let text = match std::env::args_os().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => DELAYED.to_vec(),
    };
    let script = Script::parse(&text)?;
    let now = Timestamp::from_secs(0);
    // The filesystem is made in memory as the script says.
    let device: Arc<dyn BlockDevice> = Arc::new(make(&script.head, now)?);
    let settings = Settings { path: PathChoice::Auto, now, check: true };
    run(&script, &device, settings, &mut |record| {
        println!("{record}");
        Ok(())
    })?;
    Ok(())
}
