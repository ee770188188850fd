//! An opened filesystem: geometry, groups, inodes, block maps, directories, extended attributes, path look-up.
