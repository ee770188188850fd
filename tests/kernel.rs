//! Scripts that the kernel (Linux 6.18) was recorded with, each for a rule of its own: the same states come out here, and the same
//! places on the device. `fixtures/kernel` has them, and what made them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use ext4kit::device::BlockDevice;
use ext4kit::env::Timestamp;
use ext4kit::file::PathChoice;
use ext4kit::script::{self, Script, Settings};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

/// The recordings, one a line.
fn recordings() -> Vec<Value> {
    let at = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/kernel/recordings.jsonl.gz");
    let mut text = String::new();
    GzDecoder::new(std::fs::File::open(at).unwrap()).read_to_string(&mut text).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// What a recording says of a file's state.
fn state(s: &Value) -> Value {
    let delayed: Vec<Value> =
        s["es"].as_array().unwrap().iter().filter(|e| e[3] == "delayed").map(|e| json!([e[0], e[1]])).collect();
    json!({ "size": s["size"], "disksize": s["disksize"], "reserved": s["reserved"], "ext": s["ext"], "delayed": delayed })
}

#[test]
fn stored_recordings_of_the_kernel_come_out_equal() {
    let all = recordings();
    for r in &all {
        let head = &r["script"];
        let name = format!("{} {}", head["profile"].as_str().unwrap(), head["seed"]);
        let script = Script::parse(head.to_string().as_bytes()).unwrap();
        let device: Arc<dyn BlockDevice> = Arc::new(script::make(&script.head, NOW).unwrap());
        let mut ours = Vec::new();
        let settings = Settings { path: PathChoice::Auto, now: NOW, check: false };
        script::run(&script, &device, settings, &mut |r| {
            ours.push(r.clone());
            Ok(())
        })
        .unwrap();
        ours.retain(|o| o.get("op").is_some());
        let kernel = r["ops"].as_array().unwrap();
        assert_eq!(kernel.len(), ours.len(), "{name}");
        for (k, o) in kernel.iter().zip(&ours) {
            let at = format!("{name}: op {} {}", o["i"], o["op"]);
            assert_eq!(k["errno"], o["errno"], "{at}");
            if !o["ret"].get("files").is_some_and(Value::is_object) {
                assert_eq!(k["ret"], o["ret"], "{at}");
            }
            assert_eq!(k["fs"], o["fs"], "{at}");
            for (file, s) in k["files"].as_object().unwrap() {
                if let Some(t) = o["files"].get(file) {
                    assert_eq!(s, &state(t), "{at}: {file}");
                }
            }
        }
    }
    assert!(all.len() >= 10, "{} recordings", all.len());
}
