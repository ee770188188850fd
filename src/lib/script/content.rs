//! Contents that scripts write, and sums of what is read. Offsets in bytes.

/// CRC-32 as zlib has it, continued from `crc`.
pub(super) fn crc32(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    !bytes.iter().fold(!crc, |c, b| TABLE[((c ^ u32::from(*b)) & 0xff) as usize] ^ (c >> 8))
}

const fn table() -> [u32; 256] {
    let mut out = [0; 256];
    let mut n = 0;
    while n < 256 {
        let (mut c, mut k) = (n as u32, 0);
        while k < 8 {
            c = if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 };
            k += 1;
        }
        out[n] = c;
        n += 1;
    }
    out
}

/// The bytes that a write with `seed` puts at `[off, off + len)`.
pub(super) fn pattern(seed: u64, off: u64, len: u64) -> Vec<u8> {
    let byte = |p: u64| 7u64.wrapping_mul(p).wrapping_add(13 * (p >> 12)).wrapping_add(seed.wrapping_mul(131));
    (off..off.saturating_add(len)).map(|p| byte(p) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_patterns_are_the_oracle_s() {
        assert_eq!(crc32(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(crc32(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(pattern(1, 4095, 2), [(7 * 4095 + 131) as u8, (7 * 4096 + 13 + 131) as u8]);
    }
}
