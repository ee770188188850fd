//! `e4cp`: copy files out of ext2, ext3 and ext4 images and into them, list them, stream them as tar. No root, no mount.

mod args;
mod into;
mod out;
mod place;

use std::process::ExitCode;

use ext4kit::cli::{self, Exit, Failure, Session, Tool};

use args::{Args, Task};

fn main() -> ExitCode {
    cli::run(Tool::COPY, |args: Args, session| run(&args, session))
}

fn run(args: &Args, session: &Session) -> Result<Exit, Failure> {
    match args.task()? {
        Task::List(sources) => out::list(args, session, &sources),
        Task::Discard(sources) => out::discard(args, session, &sources),
        Task::Tar(sources) => out::tar(args, session, &sources),
        Task::In(inputs, to) => into::copy(args, session, &inputs, &to),
        Task::Script(script, image) => into::script(args, session, &script, &image),
        Task::Out(sources, destination) => out::copy(args, session, &sources, &destination),
    }
}
