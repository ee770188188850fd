//! The table of problems: see [`super::problem`].
//!
//! Each row: name, pass and number (as in the id), e2fsck's code, question, preen policy, marks, text. As with e2fsck, what
//! is found before the passes does not by itself make the filesystem invalid: the passes show what it leads to.

#![expect(clippy::unreadable_literal, reason = "the codes are written as e2fsck writes them")]

use super::problem::{Ask, Pass, Preen, Row};

macro_rules! e2fsck {
    (-) => {
        None
    };
    ($code:literal) => {
        Some($code)
    };
}

macro_rules! problems {
    ($($name:ident $pass:ident $number:literal $code:tt $ask:ident $preen:ident [$($mark:ident)*] $text:literal;)*) => {
        /// A problem that the checker can find.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Problem {
            $(#[doc = $text] $name,)*
        }

        /// All rows, in the order of [`Problem`].
        pub static PROBLEMS: &[Row] = &[
            $(Row {
                problem: Problem::$name,
                pass: Pass::$pass,
                number: $number,
                e2fsck: e2fsck!($code),
                ask: Ask::$ask,
                preen: Preen::$preen,
                $($mark: true,)*
                ..BLANK
            }.with_text($text),)*
        ];
    };
}

const BLANK: Row = Row {
    problem: Problem::SuperblockCorrupt,
    pass: Pass::P0,
    number: 0,
    e2fsck: None,
    ask: Ask::Nothing,
    preen: Preen::Stop,
    harmless: false,
    minor: false,
    fatal: false,
    text: "",
};

impl Row {
    const fn with_text(self, text: &'static str) -> Self {
        Self { text, ..self }
    }
}

problems! {
    BlockBitmapNotInGroup P0 1 0x000001 Relocate Stop [] "block bitmap of group {group} is at block {block}, outside the range it may be in";
    InodeBitmapNotInGroup P0 2 0x000002 Relocate Stop [] "inode bitmap of group {group} is at block {block}, outside the range it may be in";
    InodeTableNotInGroup P0 3 0x000003 Relocate Stop [] "inode table of group {group} is at block {block}, outside the range it may be in";
    SuperblockCorrupt P0 4 0x000004 Nothing Stop [fatal] "no usable superblock: {what}";
    FsSizeWrong P0 5 0x000005 Abort Stop [harmless] "the superblock counts {num} blocks, the device has room for {want}";
    MiscCorruptSuper P0 11 0x00000b Fix Stop [] "superblock field {what} has the impossible value {num}";
    JournalBadInode P0 15 0x00000f Clear Fix [] "the journal (inode {ino}) is not usable: {what}";
    JournalBadSuper P0 21 0x000015 Fix Fix [] "the journal superblock is damaged: {what}";
    JournalHasJournal P0 22 0x000016 Clear Fix [harmless] "the has_journal feature is off, but there is a journal (inode {ino})";
    JournalRecoverSet P0 23 0x000017 Clear Fix [] "the needs_recovery feature is set, but there is no journal";
    JournalRecoveryClear P0 24 0x000018 Fix Stop [harmless] "the needs_recovery feature is off, but the journal holds transactions";
    NonzeroReservedGdtBlocks P0 46 0x00002e Fix Stop [harmless] "reserved_gdt_blocks is {num} without the resize_inode feature";
    ClearResizeInode P0 47 0x00002f Clear Stop [harmless] "the resize inode holds blocks without the resize_inode feature";
    ResizeInodeInvalid P0 48 0x000030 Recreate Stop [harmless] "the resize inode is not as the reserved descriptor blocks ask for: {what}";
    FutureLastMount P0 49 0x000031 Fix Fix [harmless minor] "the last mount ({num}) is in the future (now is {want})";
    FutureLastWrite P0 50 0x000032 Fix Fix [harmless minor] "the last write ({num}) is in the future (now is {want})";
    HurdClearFiletype P0 14 0x00000e Clear Stop [harmless] "the filesystem belongs to the Hurd, which knows no types in directory entries, but has the filetype feature";
    GroupDescCsum P0 53 0x000035 Fix Fix [harmless minor] "checksum of group descriptor {group} is {hex}, its bytes give {wanthex}";
    GroupDescUninit P0 54 0x000036 Fix Fix [harmless minor] "group descriptor {group} is marked uninitialised, which the features do not allow";
    GroupDescItableUnused P0 56 0x000038 Fix Fix [harmless minor] "group descriptor {group} counts {num} unused inodes, more than there are";
    BlockBitmapUninitLast P0 57 0x000039 Fix Fix [harmless minor] "the block bitmap of the last group ({group}) is marked uninitialised";
    MmpInvalidBlock P0 66 0x000042 Clear Fix [] "the block for multiple-mount protection ({block}) is not usable";
    MmpInvalidMagic P0 67 0x000043 Fix Fix [minor] "the block for multiple-mount protection ({block}) has a wrong magic number";
    OpenFailed P0 68 0x000044 Fix Stop [harmless] "the primary superblock is not usable ({what}); a backup at block {block} is";
    CheckDescFailed P0 69 0x000045 Fix Stop [harmless] "the primary group descriptors are not usable; those at block {block} are";
    MetaAndGdtCsumSet P0 70 0x000046 Fix Fix [harmless] "both metadata_csum and uninit_bg are set";
    MmpCsumInvalid P0 71 0x000047 Fix Fix [minor] "checksum of the block for multiple-mount protection ({block}) does not match";
    Bit64WithoutExtents P0 72 0x000048 Fix Fix [harmless] "the 64bit feature is set without the extent feature";
    CsumSeedWithoutMetaCsum P0 75 0x00004b Fix Fix [harmless] "the metadata_csum_seed feature is set without metadata_csum";
    JournalBadUuid P0 19 0x000013 Nothing Stop [fatal] "the external journal does not serve this filesystem";
    CantFindJournal P0 17 0x000011 Nothing Stop [] "the journal is on a device of its own, which was not given";
    ExtJournalBadSuper P0 18 0x000012 Nothing Stop [fatal] "the external journal has no usable superblock: {what}";
    ExtJournalCsum P0 74 0x00004a Fix Fix [harmless] "checksum of the external journal's superblock does not match";
    BadMinExtraIsize P0 77 0x00004d Fix Stop [harmless] "min_extra_isize is {num}, which no inode can have";
    BadWantExtraIsize P0 78 0x00004e Fix Stop [harmless] "want_extra_isize is {num}, which no inode can have";
    InvalidQuotaIno P0 79 0x00004f Fix Stop [harmless] "the {what} quota inode ({ino}) cannot be one";
    DisableResizeInode P0 81 0x000051 Fix Stop [] "resize_inode and meta_bg exclude each other";
    NeedsRecovery P0 501 - Nothing Fix [harmless] "the journal holds transactions; the filesystem is checked as it is without them";
    MmpInUse P0 502 - Abort Stop [fatal] "multiple-mount protection says that the filesystem is in use ({what})";
    BlockBitmapMissing P0 503 - Relocate Fix [] "group {group} has no block bitmap";
    InodeBitmapMissing P0 504 - Relocate Fix [] "group {group} has no inode bitmap";
    InodeTableMissing P0 505 - Relocate Stop [] "group {group} has no inode table";
    JournalInodeLost P0 507 - Fix Fix [] "the journal's inode ({ino}) is not usable ({what}), but the superblock has a copy of its block map";
    JournalInumWrong P0 508 - Fix Fix [] "the superblock names inode {target} as the journal, which it is not ({what}); inode {ino} is";
    JournalUuidSpurious P0 509 - Clear Stop [] "the superblock names a journal on a device of its own, but inode {ino} is one";
    JournalUnknownForm P0 510 - Recreate Stop [] "the journal has {what} that are not known, and nothing to recover";
    SuperblockLost P0 511 - Recreate Stop [] "the superblock is lost ({what}), and so are its backups; one that fits what is on the device can be made";
    SuperblockTooNew P0 512 - Fix Stop [] "the primary superblock has features or a revision that are not known, which the backup at block {block} has not";
    FlexGroupSize P0 513 - Fix Stop [harmless] "log_groups_per_flex is {num}, which no filesystem can have";
    DescriptorsLost P0 514 - Recreate Stop [] "the group descriptors are lost, and so are their backups; the inode tables were found by what is in them";
    FeaturesUnknown P0 515 - ClearFlag Stop [] "the superblock has features that no filesystem has, and all else is as if it had not";
    SuperblockField P0 506 - Fix Stop [] "superblock field {what} is {num}, should be {want}";
    JournalUnknownFeatures P0 38 0x000026 Nothing Stop [fatal] "the journal holds transactions, and has features that are not known";
    JournalClearV2 P0 42 0x00002a Clear Fix [harmless minor] "the journal superblock is of the first version, but has fields of the second";
    FeaturesInRevisionZero P0 26 0x00001a Fix Fix [harmless] "the filesystem is of revision 0, but has features";
    MoveJournal P0 40 0x000028 Relocate Fix [harmless] "the journal is the file {name} (inode {ino}), and could be hidden";
    BackupJournal P0 45 0x00002d Fix Fix [harmless minor] "the superblock holds no copy of the journal's block map";
    DirhashHint P0 52 0x000034 Fix Fix [harmless minor] "the superblock does not say how names are hashed";
    ClearTestFs P0 59 0x00003b ClearFlag Fix [harmless] "the filesystem is marked as one for tests of the code";
    HideQuota P0 65 0x000041 Relocate Fix [] "the {what} quota file is inode {ino}, which has no reserved number";
    JournalMultiFs P0 16 0x000010 Nothing Stop [fatal] "the external journal serves {num} filesystems";
    RootNoDir P1 1 0x010001 Clear Stop [] "the root inode is not a directory";
    RootDtime P1 2 0x010002 Fix Fix [] "the root directory has a deletion time";
    ReservedBadMode P1 3 0x010003 Clear Fix [] "reserved inode {ino} has a mode it may not have";
    ZeroDtime P1 4 0x010004 Fix Fix [] "inode {ino} is deleted, but has no deletion time";
    SetDtime P1 5 0x010005 Fix Fix [] "inode {ino} is in use, but has a deletion time";
    ZeroLengthDir P1 6 0x010006 Clear Fix [] "directory {ino} has no blocks";
    BlockBitmapConflict P1 7 0x010007 Relocate Stop [] "the block bitmap of group {group} shares block {block} with other metadata";
    InodeBitmapConflict P1 8 0x010008 Relocate Stop [] "the inode bitmap of group {group} shares block {block} with other metadata";
    InodeTableConflict P1 9 0x010009 Relocate Stop [] "the inode table of group {group} shares block {block} with other metadata";
    BlockBitmapBadBlock P1 10 0x01000a Relocate Stop [] "the block bitmap of group {group} is in the bad block {block}";
    InodeBitmapBadBlock P1 11 0x01000b Relocate Stop [] "the inode bitmap of group {group} is in the bad block {block}";
    BadISize P1 12 0x01000c Fix Fix [] "inode {ino}: size is {num}, should be {want}";
    BadIBlocks P1 13 0x01000d Fix Fix [] "inode {ino}: block count is {num}, should be {want}";
    IllegalBlockNum P1 14 0x01000e Clear Stop [] "inode {ino}: logical block {lblk} is mapped to {block}, outside the filesystem";
    TooManyBadBlocks P1 17 0x010011 ClearInode Stop [harmless] "inode {ino} has many pointers that lead nowhere";
    BadBlockIllegalNum P1 18 0x010012 Clear Stop [] "the list of bad blocks holds {block}, outside the filesystem";
    BadInodeMetaBlock P1 21 0x010015 Clear Stop [] "the list of bad blocks is kept in the bad block {block}";
    BadPrimarySuper P1 25 0x010019 Clear Stop [] "the primary superblock ({block}) is on the list of bad blocks";
    BadPrimaryDescriptor P1 26 0x01001a Clear Stop [] "block {block} of the primary group descriptors is on the list of bad blocks";
    BadBackupSuper P1 27 0x01001b Nothing Fix [harmless] "the backup superblock of group {group} ({block}) is on the list of bad blocks";
    BadBackupDescriptor P1 28 0x01001c Nothing Fix [harmless] "the backup group descriptors in group {group} have a bad block ({block})";
    BadBlockClaimed P1 29 0x01001d Nothing Fix [harmless] "the bad block {block} is in use by metadata";
    SetImagic P1 47 0x01002f Clear Stop [] "inode {ino} has the imagic flag";
    SetImmutable P1 48 0x010030 Clear Decline [harmless] "special file {ino} is immutable or append-only";
    SetNonzeroSize P1 50 0x010032 Fix Fix [] "special file {ino} has a size of {num}";
    FsRevLevel P1 51 0x010033 Fix Fix [harmless] "the filesystem has features, but is of revision 0";
    JournalInodeNotClear P1 52 0x010034 Clear Fix [] "the journal inode is not in use, but holds data";
    JournalBadMode P1 53 0x010035 Fix Fix [] "the journal is not a regular file";
    LowDtime P1 54 0x010036 Fix Stop [] "inode {ino} is a left-over of the orphan list";
    ReadEaBlock P1 57 0x010039 Clear Stop [] "inode {ino}: attribute block {block} cannot be read";
    BadEaBlock P1 58 0x01003a Clear Stop [] "inode {ino}: block {block} is not an attribute block";
    EaRefcount P1 60 0x01003c Fix Stop [] "attribute block {block} counts {num} references, should count {want}";
    EaMultiBlock P1 62 0x01003e Clear Stop [] "attribute block {block} says that it has {num} blocks";
    EaAllocCollision P1 64 0x010040 Clear Stop [] "attribute block {block} has overlapping parts";
    EaBadName P1 65 0x010041 Clear Stop [] "attribute block {block} has an impossible name";
    EaBadValue P1 66 0x010042 Clear Stop [] "attribute block {block} has a value that does not fit";
    TooBigDir P1 68 0x010044 Clear Stop [] "directory {ino}: block {block} at {lblk} makes it too big";
    TooBigReg P1 69 0x010045 Clear Stop [] "file {ino}: block {block} at {lblk} makes it too big";
    TooBigSymlink P1 70 0x010046 Clear Stop [] "inode {ino}: block {block} at {lblk} makes it too big";
    HtreeSet P1 71 0x010047 ClearIndex Fix [] "inode {ino} is indexed, but the filesystem has no dir_index feature";
    HtreeNoDir P1 72 0x010048 ClearIndex Fix [] "inode {ino} is indexed, but is not a directory";
    HtreeBadRoot P1 73 0x010049 ClearIndex Fix [] "directory {ino}: the root of the index is not usable";
    HtreeHashVersion P1 74 0x01004a ClearIndex Fix [] "directory {ino}: unknown hash {num}";
    HtreeIncompat P1 75 0x01004b ClearIndex Fix [] "directory {ino}: the index has an incompatible flag";
    HtreeDepth P1 76 0x01004c ClearIndex Fix [] "directory {ino}: the index has {num} levels, too many";
    BadInodeFsBlock P1 77 0x01004d Clear Stop [] "the list of bad blocks is kept in block {block}, which is filesystem metadata";
    ExtraIsize P1 79 0x01004f Fix Fix [] "inode {ino}: extra_isize is {num}, which cannot be";
    AttrNameLen P1 80 0x010050 Clear Fix [] "inode {ino}: an attribute in the inode has a name of {num} bytes, which does not fit";
    AttrValueSize P1 83 0x010053 Clear Fix [] "inode {ino}: an attribute in the inode has a value of {num} bytes, which does not fit";
    AttrHash P1 84 0x010054 Clear Fix [] "inode {ino}: an attribute has the hash {hex}, should have {wanthex}";
    TreatAsDirectory P1 85 0x010055 Fix Stop [] "inode {ino} is no directory by its mode, but looks like one";
    ExtentIterateFailure P1 87 0x010057 ClearInode Stop [] "inode {ino}: the extent tree cannot be followed below block {block}";
    ExtentBadStart P1 88 0x010058 Clear Stop [] "inode {ino}: extent at {lblk} ({num} blocks) starts at block {block}, outside the filesystem";
    ExtentEndsBeyond P1 89 0x010059 Clear Stop [] "inode {ino}: extent at {lblk} from block {block} is {num} blocks long, beyond the end of the filesystem";
    ExtentsSet P1 90 0x01005a Clear Stop [] "inode {ino} uses extents, but the filesystem does not";
    ExtentFeature P1 91 0x01005b Fix Stop [] "inode {ino} has an extent tree, but the filesystem has no extent feature";
    UnsetExtentFlag P1 92 0x01005c Fix Fix [] "inode {ino} has an extent tree, but not the flag for it";
    FastSymlinkExtents P1 93 0x01005d Clear Stop [] "symbolic link {ino} is in the inode, but has the extents flag";
    OutOfOrderExtents P1 94 0x01005e Clear Stop [] "inode {ino}: extent at {lblk} (block {block}, {num} blocks) is out of order";
    ExtentHeaderInvalid P1 95 0x01005f Clear Stop [] "inode {ino}: extent node in block {block} (from {lblk}) is not valid";
    QuotaBadMode P1 98 0x010062 Clear Fix [] "quota inode {ino} is not a regular file";
    QuotaInodeNotClear P1 99 0x010063 Clear Fix [] "quota inode {ino} is not in use, but holds data";
    InvalidBadInode P1 101 0x010065 Clear Stop [] "the inode of bad blocks does not look like one";
    ExtentLengthZero P1 102 0x010066 Clear Stop [] "inode {ino}: extent at {lblk} (block {block}) has no length";
    InodeGarbage P1 103 0x010067 ClearInode Stop [] "inode {ino} is in a block of the table that holds something else";
    InodeOnlyCsumInvalid P1 104 0x010068 Fix Fix [] "inode {ino}: checksum is {hex}, its bytes give {wanthex}";
    InodeEaCollision P1 105 0x010069 Clear Stop [] "inode {ino}: attributes in the inode overlap";
    ExtentOnlyCsumInvalid P1 106 0x01006a Fix Stop [] "inode {ino}: checksum of the extent node in block {block} (from {lblk}) does not match";
    EaBlockOnlyCsumInvalid P1 108 0x01006c Fix Stop [] "inode {ino}: checksum of attribute block {block} does not match";
    ExtentIndexStart P1 109 0x01006d Fix Stop [] "inode {ino}: an index entry starts at {num}, the node below it at {want}";
    ExtentEndOutOfBounds P1 110 0x01006e Clear Stop [] "inode {ino}: extent at {lblk} (block {block}, {num} blocks) reaches beyond its index entry";
    InlineDataFeature P1 111 0x01006f Fix Fix [] "inode {ino} holds inline data, but the filesystem has no inline_data feature";
    InlineDataSet P1 112 0x010070 Clear Stop [] "inode {ino} has the inline data flag, but the filesystem no inline_data feature";
    CriticalCollision P1 113 0x010071 Nothing Stop [] "inode {ino}: its map uses block {block}, which holds filesystem metadata";
    CollapseDirBlock P1 114 0x010072 Fix Stop [] "directory {ino}: logical block {num} should be {want}: there is a gap before it";
    UninitDirBlock P1 115 0x010073 Fix Fix [] "directory {ino}: the extent at {lblk} is marked unwritten";
    MisalignedCluster P1 116 0x010074 Nothing Stop [] "inode {ino}: logical block {lblk} at block {block} is not where its cluster is";
    InlineDataNoAttr P1 117 0x010075 Truncate Stop [] "inode {ino} has the inline data flag, but not the attribute";
    SpecialExtentsInline P1 118 0x010076 Clear Decline [harmless] "special file {ino} has the extents or inline data flag";
    ClearInlineForExtent P1 119 0x010077 Fix Stop [] "inode {ino} has an extent tree, but also the inline data flag";
    ClearExtentForInline P1 120 0x010078 Fix Stop [] "inode {ino} seems to hold inline data, but has the extents flag";
    ClearBothFlags P1 121 0x010079 Fix Stop [] "inode {ino} seems to have a block map, but has the extents and inline data flags";
    ClearExtentInlineInode P1 122 0x01007a ClearInode Stop [] "inode {ino} has the extents and inline data flags and holds neither";
    BadBlocksInBadBlocks P1 123 0x01007b ClearInode Stop [] "the list of bad blocks says that the inode of the list is in a bad block";
    ExtentCollision P1 125 0x01007d Clear Stop [] "inode {ino}: extent at {lblk} (block {block}, {num} blocks) maps blocks that are mapped already";
    ExtentBadMaxDepth P1 127 0x01007f Fix Decline [harmless] "inode {ino}: the extent tree has {num} levels, more than it can need ({want})";
    NoBigallocBlockMap P1 128 0x010080 Fix Stop [] "inode {ino} has a block map, which bigalloc does not allow";
    MissingExtentHeader P1 129 0x010081 ClearInode Stop [] "inode {ino}: the root of the extent tree is not valid";
    TimeOutOfRange P1 130 0x010082 Fix Fix [harmless] "inode {ino}: a time after 2310 is likely one before 1970";
    AttrValueEaInode P1 131 0x010083 Clear Fix [] "inode {ino}: an attribute value is said to be in inode {num}, which cannot hold one";
    AttrSetEaInodeFlag P1 134 0x010086 Fix Fix [] "inode {num} holds an attribute value of inode {ino}, but is not marked for it";
    CasefoldNonDir P1 136 0x010088 ClearFlag Stop [] "inode {ino} has the casefold flag, but is not a directory";
    CasefoldFeature P1 137 0x010089 ClearFlag Stop [] "inode {ino} has the casefold flag, but the filesystem no casefold feature";
    MissingEncryptionXattr P1 138 0x01008a ClearFlag Stop [] "inode {ino} is encrypted, but has no encryption context";
    CorruptEncryptionXattr P1 139 0x01008b ClearInode Stop [] "inode {ino} has a damaged encryption context";
    HtreeNeedsSiphash P1 141 0x01008d ClearIndex Fix [] "directory {ino} uses hash {num}, should use SipHash";
    HtreeCannotSiphash P1 142 0x01008e ClearIndex Fix [] "directory {ino} uses SipHash, but may not";
    OrphanFileBadMode P1 143 0x01008f Clear Fix [] "the orphan file ({ino}) is not a regular file";
    OrphanFileNotClear P1 144 0x010090 Clear Fix [] "the orphan file ({ino}) is not in use, but holds data";
    EaInodeFeature P1 501 0x010092 Clear Stop [] "inode {ino} is marked to hold an attribute value, but the filesystem has no ea_inode feature";
    EaInodeNonReg P1 502 0x010091 Clear Stop [] "inode {ino} is marked to hold an attribute value, but is not a regular file";
    InodeTableUnreadable P1 503 - Nothing Stop [] "the inode table of group {group} cannot be read";
    DupBlock P1B 2 0x011002 Nothing Stop [] "inode {ino} claims block {block}, which is claimed elsewhere too";
    DupRange P1B 8 0x011008 Nothing Stop [] "inode {ino} claims blocks {block} to {block2}, which are claimed elsewhere too";
    DupFile P1D 1 0x013001 Clone Stop [] "inode {ino} has {num} blocks that others claim too, {want} other files among them";
    ShareMetadata P1D 3 0x013003 Nothing Stop [] "inode {ino} shares blocks with filesystem metadata";
    BadInodeDot P2 1 0x020001 Fix Stop [] "directory {ino}: . names inode {target}";
    BadIno P2 2 0x020002 Clear Stop [] "directory {ino}: {name} names inode {target}, which cannot be";
    UnusedInode P2 3 0x020003 Clear Fix [] "directory {ino}: {name} names inode {target}, which is not in use";
    LinkDot P2 4 0x020004 Clear Stop [] "directory {ino}: {name} names the directory itself";
    BbInode P2 5 0x020005 Clear Stop [] "directory {ino}: {name} names inode {target}, which is in a bad block";
    LinkDir P2 6 0x020006 Clear Stop [] "directory {ino}: {name} is another name of directory {target}";
    LinkRoot P2 7 0x020007 Clear Stop [] "directory {ino}: {name} names the root directory";
    BadName P2 8 0x020008 Fix Stop [] "directory {ino}: {name} holds bytes that no name may hold";
    MissingDot P2 9 0x020009 Fix Stop [] "directory {ino} has no . entry";
    MissingDotDot P2 10 0x02000a Fix Stop [] "directory {ino} has no .. entry";
    FirstNotDot P2 11 0x02000b Fix Stop [] "directory {ino}: the first entry is {name} (inode {target}), should be .";
    SecondNotDotDot P2 12 0x02000c Fix Stop [] "directory {ino}: the second entry is {name} (inode {target}), should be ..";
    FaddrNonzero P2 13 0x02000d Clear Stop [] "inode {ino}: the fragment address is {num}, should be 0";
    FileAclNonzero P2 14 0x02000e Clear Stop [] "inode {ino}: the attribute block is {num}, but the filesystem has no attributes";
    DirSizeHigh P2 15 0x02000f Clear Stop [] "directory {ino}: the high half of the size is {num}, should be 0";
    FragNonzero P2 16 0x020010 Clear Stop [] "inode {ino}: the fragment number is {num}, should be 0";
    FsizeNonzero P2 17 0x020011 Clear Stop [] "inode {ino}: the fragment size is {num}, should be 0";
    BadMode P2 18 0x020012 Clear Stop [] "inode {ino}: the mode {num} means nothing";
    DirCorrupted P2 19 0x020013 Salvage Stop [] "directory {ino}: entry at byte {offset} of logical block {lblk} is damaged";
    DirectoryHole P2 21 0x020015 Allocate Stop [] "directory {ino} has a hole at logical block {lblk}";
    DotNullTerm P2 22 0x020016 Fix Stop [] "directory {ino}: . is not ended by a zero";
    DotDotNullTerm P2 23 0x020017 Fix Stop [] "directory {ino}: .. is not ended by a zero";
    BadCharDev P2 24 0x020018 Clear Stop [] "inode {ino} is an impossible character device";
    BadBlockDev P2 25 0x020019 Clear Stop [] "inode {ino} is an impossible block device";
    DupDot P2 26 0x02001a Fix Stop [] "directory {ino} has a second . entry";
    DupDotDot P2 27 0x02001b Fix Stop [] "directory {ino} has a second .. entry";
    ReadDirBlock P2 32 0x020020 Salvage Stop [] "directory {ino}: logical block {lblk} (block {block}) cannot be read";
    SplitDot P2 36 0x020024 Fix Stop [harmless] "directory {ino}: the . entry takes {num} bytes";
    BadFifo P2 37 0x020025 Clear Stop [] "inode {ino} is an impossible pipe";
    BadSocket P2 38 0x020026 Clear Stop [] "inode {ino} is an impossible socket";
    SetFiletype P2 39 0x020027 Fix Fix [harmless] "directory {ino}: {name} does not tell its type ({want})";
    BadFiletype P2 40 0x020028 Fix Stop [] "directory {ino}: {name} has the type {num}, should have {want}";
    ClearFiletype P2 41 0x020029 Clear Fix [] "directory {ino}: {name} has a type ({num}), but the filesystem keeps none";
    NullName P2 48 0x020030 Clear Stop [] "directory {ino}: an entry for inode {target} has no name";
    InvalidSymlink P2 49 0x020031 Clear Stop [] "inode {ino} is an impossible symbolic link";
    FileAclBad P2 50 0x020032 Clear Stop [] "inode {ino}: the attribute block {block} is outside the filesystem";
    FeatureLargeFiles P2 51 0x020033 Fix Fix [] "there are files above 2 GiB, but no large_file feature";
    HtreeNotRef P2 52 0x020034 ClearIndex Stop [] "directory {ino}: logical block {lblk} is not in the index";
    HtreeDupRef P2 53 0x020035 ClearIndex Stop [] "directory {ino}: logical block {lblk} is in the index twice";
    HtreeMinHash P2 54 0x020036 ClearIndex Stop [] "directory {ino}: logical block {lblk} holds hashes below what the index says";
    HtreeMaxHash P2 55 0x020037 ClearIndex Stop [] "directory {ino}: logical block {lblk} holds hashes above what the index says";
    FeatureLargeDirs P2 57 0x020039 Fix Fix [] "there are directories above 2 GiB or of three levels, but no large_dir feature";
    HtreeBadBlock P2 58 0x02003a ClearIndex Stop [] "directory {ino}: the index names logical block {num}, which the directory does not have";
    HtreeBadRootNode P2 60 0x02003c ClearIndex Fix [] "directory {ino}: the root of the index is not valid";
    HtreeBadLimit P2 61 0x02003d ClearIndex Fix [] "directory {ino}: index node {lblk} says it has room for {num} entries";
    HtreeBadCount P2 62 0x02003e ClearIndex Fix [] "directory {ino}: index node {lblk} counts {num} entries, more than fit";
    HtreeHashOrder P2 63 0x02003f ClearIndex Fix [] "directory {ino}: index node {lblk} is not in order of hashes";
    HtreeBadDepth P2 64 0x020040 ClearIndex Stop [] "directory {ino}: logical block {lblk} is at depth {num} of the index, should be at {want}";
    ReportDupDirent P2 67 0x020043 Rename Stop [] "directory {ino}: {name} is there twice";
    BlocksHiNonzero P2 68 0x020044 Clear Stop [] "inode {ino}: the high part of the block count is {num}, should be 0";
    InoRefUninit P2 70 0x020046 Fix Fix [] "directory {ino}: {name} names inode {target} in group {group}, which is marked as without inodes";
    InoRefUnused P2 71 0x020047 Fix Fix [] "directory {ino}: {name} names inode {target} in the part of group {group} that is marked as never used";
    FileAclHiNonzero P2 72 0x020048 Clear Fix [] "inode {ino}: the high part of the attribute block is {num}, should be 0";
    HtreeRootCsum P2 73 0x020049 ClearIndex Fix [] "directory {ino}: checksum of the root of the index does not match";
    HtreeNodeCsum P2 74 0x02004a ClearIndex Fix [] "directory {ino}: checksum of index node {lblk} does not match";
    LeafMissingCsum P2 76 0x02004c Fix Fix [] "directory {ino}: logical block {lblk} has no checksum";
    LeafOnlyCsumInvalid P2 77 0x02004d Fix Fix [] "directory {ino}: checksum of logical block {lblk} does not match";
    BadInlineDirSize P2 78 0x02004e Fix Stop [] "inline directory {ino} has {num} bytes, which cannot be";
    BadEncryptedName P2 80 0x020050 Clear Stop [] "encrypted directory {ino}: the name for inode {target} is too short";
    UnencryptedFile P2 81 0x020051 Clear Stop [] "encrypted directory {ino}: {name} (inode {target}) is not encrypted";
    EncryptionPolicy P2 82 0x020052 Clear Stop [] "encrypted directory {ino}: {name} (inode {target}) is encrypted by another policy";
    BadEncodedName P2 83 0x020053 Fix Stop [] "directory {ino}: {name} is not valid UTF-8";
    DupEncrypted P2 84 0x020054 Clear Stop [] "encrypted directory {ino}: {name} is there twice";
    EaInodeDirLink P2 85 0x020055 Clear Stop [] "directory {ino}: {name} names inode {target}, which holds an attribute value";
    NoRootInode P3 1 0x030001 Recreate Stop [] "there is no root directory";
    UnconnectedDir P3 3 0x030003 Connect Stop [] "directory {ino} cannot be reached from the root (its .. is {target})";
    NoLostFound P3 4 0x030004 Recreate Fix [harmless] "there is no lost+found";
    BadDotDot P3 5 0x030005 Fix Stop [] "directory {ino}: .. is inode {target}, should be {want}";
    LostFoundNotDir P3 23 0x030017 Clear Stop [harmless] "lost+found is not a directory";
    LostFoundInline P3 24 0x030018 Clear Stop [harmless] "lost+found holds inline data";
    LostFoundEncrypted P3 27 0x03001b Clear Stop [harmless] "lost+found is encrypted";
    LoopedDir P3 29 0x03001d Connect Stop [] "directory {ino} is below itself";
    ZeroLenInode P4 1 0x040001 Clear Fix [harmless] "file {ino} has no name and no content";
    UnattachedInode P4 2 0x040002 Connect Stop [] "inode {ino} has no name";
    BadRefCount P4 3 0x040003 Fix Fix [] "inode {ino}: link count is {num}, should be {want}";
    EaInodeRefCount P4 5 0x040005 Fix Fix [] "attribute inode {ino}: reference count is {num}, should be {want}";
    DirNlinkFeature P4 6 0x040006 Fix Stop [] "directory {ino} has {num} links, but the filesystem no dir_nlink feature";
    DirOverflowRefCount P4 7 0x040007 Fix Fix [harmless] "directory {ino} says that it has too many links to count, but has {want}";
    EaInodeSpuriousFlag P4 501 0x040008 ClearFlag Stop [] "inode {ino} is marked to hold an attribute value, but none refers to it";
    InodeBitmapPadding P5 1 0x050001 Fix Fix [] "inode bitmap of group {group}: bits after the end are not set";
    BlockBitmapPadding P5 2 0x050002 Fix Fix [] "block bitmap of group {group}: bits after the end are not set";
    BlockUnused P5 4 0x050004 Fix Fix [] "block {block} is not in use, but marked as in use";
    BlockUsed P5 5 0x050005 Fix Fix [] "block {block} is in use, but not marked as in use";
    InodeUnused P5 8 0x050008 Fix Fix [] "inode {ino} is not in use, but marked as in use";
    InodeUsed P5 9 0x050009 Fix Fix [] "inode {ino} is in use, but not marked as in use";
    FreeInodesGroup P5 11 0x05000b Fix Fix [] "group {group} counts {num} free inodes, has {want}";
    DirsGroup P5 12 0x05000c Fix Fix [] "group {group} counts {num} directories, has {want}";
    FreeInodes P5 13 0x05000d Fix Fix [harmless] "the superblock counts {num} free inodes, there are {want}";
    FreeBlocksGroup P5 14 0x05000e Fix Fix [] "group {group} counts {num} free blocks, has {want}";
    FreeBlocks P5 15 0x05000f Fix Fix [harmless] "the superblock counts {num} free blocks, there are {want}";
    BlockRangeUnused P5 20 0x050014 Fix Fix [] "blocks {block} to {block2} are not in use, but marked as in use";
    BlockRangeUsed P5 21 0x050015 Fix Fix [] "blocks {block} to {block2} are in use, but not marked as in use";
    InodeRangeUnused P5 22 0x050016 Fix Fix [] "inodes {ino} to {target} are not in use, but marked as in use";
    InodeRangeUsed P5 23 0x050017 Fix Fix [] "inodes {ino} to {target} are in use, but not marked as in use";
    BlockUninit P5 24 0x050018 Fix Fix [] "group {group} has blocks in use, but is marked as without";
    InodeUninit P5 25 0x050019 Fix Fix [] "group {group} has inodes in use, but is marked as without";
    InodeBitmapCsum P5 26 0x05001a Fix Fix [] "checksum of the inode bitmap of group {group} does not match";
    BlockBitmapCsum P5 27 0x05001b Fix Fix [] "checksum of the block bitmap of group {group} does not match";
    BitmapUnreadable P5 501 - Nothing Stop [] "the {what} of group {group} (block {block}) cannot be read";
    UpdateQuotas P6 2 0x060002 Fix Fix [] "the {what} quota of id {num} is not what its files use";
    OrphanFileWithoutJournal P6 7 0x060007 Clear Fix [] "there is an orphan file, but no journal";
    OrphanFileCorrupted P6 9 0x060009 Recreate Fix [] "the orphan file ({ino}) is not usable: {what}";
    OrphanBlockDirty P6 12 0x06000c Clear Fix [] "orphan file ({ino}): logical block {lblk} is not clean";
    OrphanPresentCleanFile P6 13 0x06000d Clear Fix [] "the orphan_present feature is set, but the orphan file is clean";
    OrphanPresentNoFile P6 14 0x06000e Clear Fix [] "the orphan_present feature is set without the orphan_file feature";
}
