//! The servers of an image: the mirrors of its registry in their order, then the
//! registry itself. The first server that succeeds is used; an unusable one is not
//! tried again.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::client::Client;
use super::credentials::Keyring;
use super::error::{RegistryError, RegistryProblem};
use super::http::Http;
use super::registries::Registries;
use crate::image::manifest::ManifestError;
use crate::image::reference::RegistryReference;
use crate::source::error::SourceFailure;

#[derive(Debug)]
pub(super) struct Endpoints {
    /// Not empty; the last one is the registry itself.
    clients: Vec<Endpoint>,
}

#[derive(Debug)]
struct Endpoint {
    client: Client,
    /// Why it is not used again, if so.
    disabled: OnceLock<String>,
    /// Its last error.
    last_error: Mutex<Option<String>>,
}

impl Endpoints {
    pub(super) fn new(
        image: &RegistryReference,
        registries: &Registries,
    ) -> Result<Endpoints, RegistryError> {
        let failed = |problem| RegistryError::new(image, problem);
        let keyring = Keyring::from_environment().map_err(failed)?;
        let http = Arc::new(Http::new(registries));
        let mut names = registries.mirrored(image);
        names.push(image.clone());
        let clients = names.iter().map(|name| {
            let known = keyring.find(name).map_err(failed)?;
            let is_insecure = registries.is_insecure(&name.registry);
            Ok(Endpoint {
                client: Client::new(&http, name, image, known, is_insecure),
                disabled: OnceLock::new(),
                last_error: Mutex::default(),
            })
        });
        Ok(Endpoints {
            clients: clients.collect::<Result<_, _>>()?,
        })
    }

    /// Tries one server after the other, without the first `skip` (but always the
    /// last).
    ///
    /// # Errors
    /// The error of the last server, with those of the mirrors; errors that no other
    /// server can avoid are returned at once.
    pub(super) fn first<T>(
        &self,
        skip: usize,
        request: impl Fn(&Client) -> Result<T, SourceFailure>,
    ) -> Result<T, SourceFailure> {
        let (last, mirrors) = self.split();
        for mirror in mirrors.iter().skip(skip) {
            if mirror.disabled.get().is_some() {
                continue;
            }
            match request(&mirror.client) {
                Err(error) if is_of_server(&error) => mirror.record_failure(&error),
                result => return result,
            }
        }
        request(&last.client).map_err(|error| match error {
            SourceFailure::Registry(error) => SourceFailure::Registry(RegistryError {
                mirrors: mirrors.iter().filter_map(Endpoint::last_error).collect(),
                ..error
            }),
            error => error,
        })
    }

    /// The registry itself.
    pub(super) fn registry(&self) -> &Client {
        &self.split().0.client
    }

    fn split(&self) -> (&Endpoint, &[Endpoint]) {
        let (last, mirrors) = (self.clients.split_last()).expect("the registry is always in it");
        (last, mirrors)
    }
}

impl Endpoint {
    /// Records the error of a mirror.
    fn record_failure(&self, error: &SourceFailure) {
        let reason = match error {
            SourceFailure::Registry(error) => error.without_image(),
            SourceFailure::Manifest(ManifestError::WrongBytes { what, .. }) => {
                let mirror = &self.client.image().registry;
                format!("{mirror}: digest mismatch in the {what}")
            }
            error => error.to_string(),
        };
        tracing::info!(%reason, "mirror failed; trying the next server");
        if let SourceFailure::Registry(error) = error
            && error.problem.disables_mirror()
        {
            let _ = self.disabled.set(reason.clone());
        }
        let mut last_error = (self.last_error.lock()).unwrap_or_else(PoisonError::into_inner);
        *last_error = Some(reason);
    }

    fn last_error(&self) -> Option<String> {
        let last_error = (self.last_error.lock()).unwrap_or_else(PoisonError::into_inner);
        last_error.clone()
    }
}

/// Whether another server may succeed.
fn is_of_server(error: &SourceFailure) -> bool {
    match error {
        SourceFailure::Registry(error) => !matches!(
            *error.problem,
            RegistryProblem::AuthFile { .. }
                | RegistryProblem::ProxyVariable { .. }
                | RegistryProblem::Certificates { .. }
        ),
        SourceFailure::Manifest(ManifestError::WrongBytes { .. }) => true,
        _ => false,
    }
}
