//! Operands: a path of the host, or `IMAGE:PATH`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use ext4kit::device::ImageSpec;

/// What an operand names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A file or directory of the host.
    Host(OsString),
    /// A path in an image.
    Image(ImagePath),
}

/// A path in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImagePath {
    /// The image, as it was given: a path, and `@OFFSET` perhaps.
    pub(crate) image: OsString,
    /// The path in it, from the root.
    pub(crate) path: Vec<u8>,
}

impl ImagePath {
    /// Where the image is.
    pub(crate) fn spec(&self) -> ImageSpec {
        ImageSpec::parse(&self.image)
    }
}

impl Place {
    /// Read an operand. The image ends at the first `:` that `/` or nothing follows; a file of the host that has the whole
    /// operand as its name is that file.
    pub(crate) fn parse(text: &OsStr) -> Self {
        let host = || Self::Host(text.to_os_string());
        let bytes = text.as_bytes();
        let cut = (1..bytes.len()).find(|&i| bytes[i] == b':' && matches!(bytes.get(i + 1), None | Some(b'/')));
        let Some(cut) = cut else { return host() };
        if std::fs::symlink_metadata(text).is_ok() {
            return host();
        }
        let path = if cut + 1 == bytes.len() { b"/".to_vec() } else { bytes[cut + 1..].to_vec() };
        Self::Image(ImagePath { image: OsStr::from_bytes(&bytes[..cut]).to_os_string(), path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(image: &str, path: &str) -> Place {
        Place::Image(ImagePath { image: image.into(), path: path.into() })
    }

    #[test]
    fn operands_are_split_at_the_colon() {
        let parse = |text: &str| Place::parse(OsStr::new(text));
        assert_eq!(parse("none.img:/a/b"), image("none.img", "/a/b"));
        assert_eq!(parse("none.img:"), image("none.img", "/"));
        assert_eq!(parse("none@1M:/a:/b"), image("none@1M", "/a:/b"));
        assert_eq!(parse("no:ne:/x"), image("no:ne", "/x"));
        assert_eq!(parse("dir:x/none:/x"), image("dir:x/none", "/x"));
        for host in ["none", "-", ".", "a:b", ":/x", ":", "/a/b"] {
            assert_eq!(parse(host), Place::Host(host.into()), "{host}");
        }
    }

    #[test]
    fn a_file_that_exists_is_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("odd:");
        std::fs::write(&path, b"").unwrap();
        assert_eq!(Place::parse(path.as_os_str()), Place::Host(path.into_os_string()));
    }
}
