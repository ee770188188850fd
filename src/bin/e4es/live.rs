//! `e4es run --live`: the state after each step, as tables or as a line of JSON.

use std::io::{self, Write};

use ext4kit::inspect::{Format, LiveView, show};
use ext4kit::script::Seen;
use serde_json::Value;

/// An operation as a person would write it: `write a off=0 len=4096 seed=1`.
fn words(op: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut all = vec![op.get("op").map(text).unwrap_or_default()];
    all.extend(op.get("file").map(text));
    let rest = op.as_object().into_iter().flatten().filter(|(k, _)| *k != "op" && *k != "file");
    all.extend(rest.map(|(k, v)| format!("{k}={}", text(v))));
    all.join(" ")
}

/// Show the state, where the filesystem is mounted.
pub(crate) fn step(seen: &Seen<'_>, format: Format, out: &mut dyn Write) -> io::Result<()> {
    let (Some(mount), Some(op)) = (seen.mount, seen.record.get("op")) else { return Ok(()) };
    let step = seen.record.get("i").and_then(Value::as_u64).unwrap_or(0);
    let errno = seen.record.get("errno").and_then(Value::as_str).map(str::to_owned);
    show(&LiveView::new(mount, seen.open, step, words(op), errno), format, out)?;
    out.flush()
}
