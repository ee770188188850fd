//! Edit an image by a script of commands: `cargo run --example edit IMAGE SCRIPT`. All of it is one transaction of the image's
//! journal: a mistake in the last line, or a kill at any moment, leaves the image as it was.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use ext4kit::batch::{Options, Report, Script, Session, Unwatched};
use ext4kit::cli::SystemTimer;
use ext4kit::device::{Access, ImageSpec};
use ext4kit::env::{FixedClock, Timestamp};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(image), Some(script)) = (args.next(), args.next()) else {
        return Err("usage: edit IMAGE SCRIPT".into());
    };
    let script = Script::parse(&std::fs::read(script)?)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let clock = Arc::new(FixedClock(Timestamp::from_secs(i64::try_from(now)?)));
    let device = ImageSpec::parse(image).open(Access::ReadWrite)?;
    let mut session = Session::open(device, Options::new(clock, Arc::new(SystemTimer)))?;
    let mut report = Report::default();
    match script.run(&mut session, &mut Unwatched, &mut report, &mut |_, _| ()) {
        Ok(()) => session.close()?,
        Err(e) => {
            // Nothing of it has been written.
            session.abandon()?;
            return Err(e.into());
        }
    }
    println!("{} commands are done", script.len());
    Ok(())
}
