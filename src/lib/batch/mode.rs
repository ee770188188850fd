//! Changes of permissions as chmod(1) writes them: octal, or clauses like `u+rwX,go-w`.

use crate::error::{Error, Result};

/// What a clause does with its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Set,
}

/// Where a clause's bits come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bits {
    /// `rwxst` as bits of all three classes, and whether `X` was among them.
    Letters { bits: u16, conditional: bool },
    /// The permissions of a class (shift of its three bits).
    Copy(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Clause {
    /// Bits of the classes that it is about, with set-id and sticky where they belong.
    mask: u16,
    operator: Operator,
    bits: Bits,
}

/// A change of permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModeChange(Vec<Clause>);

impl ModeChange {
    /// Exactly these permissions.
    pub fn exactly(permissions: u16) -> Self {
        let bits = Bits::Letters { bits: permissions & 0o7777, conditional: false };
        Self(vec![Clause { mask: 0o7777, operator: Operator::Set, bits }])
    }

    /// Read a change.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`].
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::InvalidArgument {
            name: "mode",
            value: text.to_owned(),
            allowed: "octal up to 7777, or as chmod has it: u+rwX,go-w",
        };
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            let mode = u16::from_str_radix(text, 8).ok().filter(|m| *m <= 0o7777);
            return mode.map(Self::exactly).ok_or_else(wrong);
        }
        let mut all = Vec::new();
        for clause in text.split(',') {
            parse_clause(clause, &mut all).ok_or_else(wrong)?;
        }
        Ok(Self(all))
    }

    /// The permissions that `mode` becomes.
    pub fn apply(&self, mode: u16, is_dir: bool) -> u16 {
        let mut now = mode & 0o7777;
        for c in &self.0 {
            let bits = match c.bits {
                Bits::Letters { bits, conditional } => {
                    let execute = if conditional && (is_dir || now & 0o111 != 0) { 0o111 } else { 0 };
                    (bits | execute) & c.mask
                }
                Bits::Copy(shift) => (((now >> shift) & 7) * 0o111) & c.mask & 0o777,
            };
            now = match c.operator {
                Operator::Add => now | bits,
                Operator::Remove => now & !bits,
                Operator::Set => (now & !c.mask) | bits,
            };
        }
        now
    }
}

/// One clause: classes, then operators with their bits, at least one.
fn parse_clause(text: &str, all: &mut Vec<Clause>) -> Option<()> {
    let start = text.find(['+', '-', '='])?;
    let (classes, mut rest) = text.split_at(start);
    let mut mask = 0;
    for class in classes.bytes() {
        mask |= match class {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o1007,
            b'a' => 0o7777,
            _ => return None,
        };
    }
    if classes.is_empty() {
        mask = 0o7777;
    }
    while let Some(first) = rest.chars().next() {
        let operator = match first {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            '=' => Operator::Set,
            _ => return None,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |i| i + 1);
        let bits = parse_bits(&rest[1..end])?;
        all.push(Clause { mask, operator, bits });
        rest = &rest[end..];
    }
    Some(())
}

fn parse_bits(text: &str) -> Option<Bits> {
    match text {
        "u" => return Some(Bits::Copy(6)),
        "g" => return Some(Bits::Copy(3)),
        "o" => return Some(Bits::Copy(0)),
        _ => {}
    }
    let (mut bits, mut conditional) = (0, false);
    for b in text.bytes() {
        match b {
            b'r' => bits |= 0o444,
            b'w' => bits |= 0o222,
            b'x' => bits |= 0o111,
            b'X' => conditional = true,
            b's' => bits |= 0o6000,
            b't' => bits |= 0o1000,
            _ => return None,
        }
    }
    Some(Bits::Letters { bits, conditional })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(change: &str, mode: u16, is_dir: bool) -> u16 {
        ModeChange::parse(change).unwrap().apply(mode, is_dir)
    }

    #[test]
    fn changes_do_what_chmod_does() {
        for (change, mode, is_dir, want) in [
            ("644", 0o4777, false, 0o644),
            ("04755", 0, true, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("go-rwx", 0o777, false, 0o700),
            ("a+rX", 0o600, false, 0o644),
            ("a+rX", 0o700, false, 0o755),
            ("+X", 0o600, true, 0o711),
            ("u=rw,go=r", 0o7777, false, 0o644),
            ("g=u", 0o640, false, 0o660),
            ("u+s,g+s,o+t", 0o755, false, 0o7755),
            ("o=", 0o777, false, 0o770),
            ("u=rwx-x", 0, false, 0o600),
        ] {
            assert_eq!(after(change, mode, is_dir), want, "{change} on {mode:o}");
        }
        for bad in ["", "8", "77777", "u", "u+q", "z+r", "u+r,", "rw"] {
            assert!(ModeChange::parse(bad).is_err(), "{bad}");
        }
    }
}
