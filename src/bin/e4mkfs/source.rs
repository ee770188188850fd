//! What the filesystem is filled from: directories, archives and lists, and what is changed of them.

use std::path::Path;

use ext4kit::cli::{self, Failure};
use ext4kit::env::Timestamp;
use ext4kit::error::Error;
use ext4kit::mkfs::parse::{self, Extra};
use ext4kit::populate::{
    Exclude, FileContexts, HostDir, Labelled, Overlay, OwnerMap, OwnerNames, Source, SpecFile, Tree,
};
use ext4kit::progress::Progress;

use crate::args::Args;

/// Everything that `-d` and `--spec` name; `None` where they name nothing.
pub(crate) fn open(args: &Args, extra: &Extra, now: Timestamp) -> Result<Option<Box<dyn Source>>, Failure> {
    let source = layers(args, extra.no_copy_xattrs, now)?;
    let mut contexts = None;
    if let Some(path) = &args.selinux_contexts {
        let text = std::fs::read_to_string(path).map_err(|e| Error::host("read", path, e))?;
        contexts = Some(FileContexts::parse(&text)?);
    }
    if let Some(context) = &extra.root_context {
        contexts = Some(contexts.unwrap_or_default().with_root(context));
    }
    let Some(contexts) = contexts else { return Ok(source) };
    // The root of an empty filesystem can have a context, too.
    let source = source.unwrap_or_else(|| Box::new(Overlay::new(Vec::new(), now)));
    Ok(Some(Box::new(Labelled::new(source, contexts))))
}

fn layers(args: &Args, without_xattrs: bool, now: Timestamp) -> Result<Option<Box<dyn Source>>, Failure> {
    let mut layers: Vec<Box<dyn Source>> = Vec::new();
    if args.sources.iter().filter(|s| s.as_os_str() == "-").count() > 1 {
        return Err(Failure::Usage("standard input can be used only once".into()));
    }
    for path in &args.sources {
        layers.push(one(path, args, without_xattrs, now)?);
    }
    for path in &args.spec {
        layers.push(Box::new(SpecFile::open(path, now)?));
    }
    // A list may take away what is below it, so it is a layer even if it is alone.
    if layers.len() > 1 || !args.spec.is_empty() {
        return Ok(Some(Box::new(Overlay::new(layers, now))));
    }
    Ok(layers.pop())
}

/// A directory, a tar archive, or `-`: an archive from standard input.
fn one(path: &Path, args: &Args, without_xattrs: bool, now: Timestamp) -> Result<Box<dyn Source>, Failure> {
    let exclude = Exclude::new(&args.exclude);
    if path.is_dir() {
        let source = HostDir::open(path)?.excluding(exclude);
        let source = if args.keep_times { source.with_times() } else { source };
        return Ok(Box::new(if without_xattrs { source.without_xattrs() } else { source }));
    }
    let source = cli::open_tar(path)?.excluding(exclude).implied_at(now).naming(names(args)?);
    let source = if args.keep_times { source.with_times() } else { source };
    Ok(Box::new(if without_xattrs { source.without_xattrs() } else { source }))
}

/// The numbers of owners that archives name.
fn names(args: &Args) -> Result<Option<OwnerNames>, Failure> {
    if args.passwd.is_none() && args.group.is_none() {
        return Ok(None);
    }
    let read = |path: &Option<std::path::PathBuf>| match path {
        None => Ok(Vec::new()),
        Some(path) => std::fs::read(path).map_err(|e| Error::host("read", path, e)),
    };
    Ok(Some(OwnerNames::parse(&read(&args.passwd)?, &read(&args.group)?)))
}

/// List the files, with the owners and permissions that they get.
pub(crate) fn list(
    source: &dyn Source,
    args: &Args,
    root_permissions: Option<u16>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Tree, Failure> {
    let mut owners = OwnerMap::default();
    for text in &args.owner_map {
        owners.add(text)?;
    }
    let owner = args.owner.as_deref().map(parse::owner).transpose()?;
    let bits = args.mode_bits()?;
    let mut tree = source.list(threads, progress)?;
    tree.map_owners(&owners);
    if let Some(owner) = owner {
        tree.set_owner(owner);
    }
    tree.clear_permissions(bits);
    if let Some(bits) = root_permissions {
        tree.set_root_permissions(bits);
    }
    Ok(tree)
}
