//! Runs by a configuration of MMSelfSup: what there is to say, and what the flags change.

use npid_learn::config::mmselfsup::Translation;
use npid_learn::{Config, Error};

use crate::args::Train;

/// What the translation has to say, a line each. Looks for the pictures it names, unless the
/// configuration is only shown. Other pictures, which the flags may name, don't have to be as many,
/// nor in lists relative to the same folder.
///
/// # Errors
/// If the pictures aren't there.
pub fn settle(
    translation: &Translation,
    args: &Train,
    other_pictures: bool,
    config: &mut Config,
) -> Result<Vec<String>, Error> {
    let mut notes = translation.notes.clone();
    if !other_pictures {
        if !args.print_config {
            translation.check_pictures()?;
        }
        return Ok(notes);
    }
    let set = |key: &str| {
        let mut names = args.set.iter().filter_map(|set| set.split_once('='));
        names.any(|(name, _)| name.trim() == key)
    };
    if !set("data.data_prefix") {
        config.data.data_prefix = None;
    }
    let bank = &mut config.model.memory_bank;
    if let Some(length) = bank.length
        && !set("model.memory_bank.length")
    {
        bank.length = None;
        notes.push(format!(
            "model.memory_bank.length: the number of pictures, instead of {length}"
        ));
    }
    Ok(notes)
}
