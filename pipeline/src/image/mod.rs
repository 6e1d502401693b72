//! Images by name and by content: references, and the documents they lead to.
//! Pure: no file is opened and no server is asked.

mod document;
pub(crate) mod go_json;
pub(crate) mod manifest;
pub(crate) mod platform;
pub(crate) mod reference;
