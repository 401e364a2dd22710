//! How a file changes its bases: mmcv's `Config._merge_a_into_b`.

use crate::error::Error;
use crate::value::{Dict, Kind, Value};

/// The key that says that a dict replaces its base's instead of changing it.
const DELETE: &str = "_delete_";

/// `base` as `child` changes it: dicts are merged key by key, anything else is replaced. A dict
/// with `_delete_=True` replaces.
///
/// # Errors
/// If a dict stands where the base has something else.
pub(crate) fn merge(child: Dict, base: Dict) -> Result<Dict, Error> {
    let mut merged = base;
    for (key, mut value) in child.entries {
        let replaces = match &mut value.kind {
            Kind::Dict(dict) => dict
                .remove(DELETE)
                .is_some_and(|v| v.as_bool() == Some(true)),
            _ => true,
        };
        match (replaces, merged.get(&key)) {
            (false, Some(old)) => {
                let (Kind::Dict(changes), Kind::Dict(old_dict)) = (value.kind, &old.kind) else {
                    return Err(Error {
                        file: value.place.file.to_path_buf(),
                        line: Some(value.place.line),
                        what: format!(
                            "`{key}` is a dict here, but {old} in {}; add _delete_=True to the \
                             dict to replace that",
                            old.place
                        ),
                    });
                };
                let kind = Kind::Dict(merge(changes, old_dict.clone())?);
                let place = value.place;
                merged.insert(key, Value { kind, place });
            }
            _ => {
                clean(&mut value);
                merged.insert(key, value);
            }
        }
    }
    Ok(merged)
}

/// Takes out `_delete_` where there was nothing to replace.
fn clean(value: &mut Value) {
    match &mut value.kind {
        Kind::Dict(dict) => {
            dict.remove(DELETE);
            dict.entries.iter_mut().for_each(|(_, value)| clean(value));
        }
        Kind::List(items) | Kind::Tuple(items) => items.iter_mut().for_each(clean),
        _ => {}
    }
}
