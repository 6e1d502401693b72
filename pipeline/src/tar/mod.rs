//! Reading tars: from the compressed stream to members and their index.
//!
//! | question | module |
//! |---|---|
//! | how a stream is compressed, and how it is decompressed | [`decompress`] |
//! | how two threads pass bytes to each other | [`feed`] |
//! | what a member is | [`entry`] |
//! | how headers become members | [`reader`], [`pax`] |
//! | how the members of a layer are stored | [`index`] |
//! | all of it in one pass over a compressed tar | [`stream`] |

pub(crate) mod decompress;
pub(crate) mod entry;
pub(crate) mod feed;
pub(crate) mod index;
pub(crate) mod pax;
pub(crate) mod reader;
pub(crate) mod stream;
