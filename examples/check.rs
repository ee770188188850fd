//! Check an image: `cargo run --example check IMAGE`. What is found goes out as text, line by line; nothing is written.

use std::process::ExitCode;

use ext4kit::check::{CheckOptions, Collect, check};
use ext4kit::device::{Access, ImageSpec};
use ext4kit::env::Timestamp;
use ext4kit::progress::Silent;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Some(image) = std::env::args_os().nth(1) else { return Err("usage: check IMAGE".into()) };
    let device = ImageSpec::parse(image).open(Access::ReadOnly)?;
    let mut findings = Collect::default();
    let outcome = check(&device, &CheckOptions::everything(Timestamp::from_secs(0)), &mut findings, &Silent)?;
    for finding in &findings.0 {
        println!("{}", finding.message());
    }
    println!("{}", outcome.summary.line());
    Ok(if outcome.errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(4) })
}
