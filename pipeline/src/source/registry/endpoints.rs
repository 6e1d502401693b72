//! The servers that may have an image: the mirrors of its registry in their
//! order, then the registry itself. The first that has what is asked for
//! answers; one that cannot be used is not asked again.

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
    /// Never empty; the registry itself is the last.
    clients: Vec<Endpoint>,
}

#[derive(Debug)]
struct Endpoint {
    client: Client,
    /// Why it is no longer asked.
    out: OnceLock<String>,
    /// The last reason why it did not answer.
    said: Mutex<Option<String>>,
}

impl Endpoints {
    pub(super) fn new(
        image: &RegistryReference,
        registries: &Registries,
    ) -> Result<Endpoints, RegistryError> {
        let failed = |problem| RegistryError::new(image, problem);
        let keyring = Keyring::from_environment().map_err(failed)?;
        let http = Arc::new(Http::new(registries));
        let mut places = registries.mirrored(image);
        places.push(image.clone());
        let clients = places.iter().map(|place| {
            let known = keyring.find(place).map_err(failed)?;
            let is_insecure = registries.is_insecure(&place.registry);
            Ok(Endpoint {
                client: Client::new(&http, place, image, known, is_insecure),
                out: OnceLock::new(),
                said: Mutex::default(),
            })
        });
        Ok(Endpoints {
            clients: clients.collect::<Result<_, _>>()?,
        })
    }

    /// Asks one after the other, leaving out the first `skip` (but never the
    /// last).
    ///
    /// # Errors
    /// Those of the last, with what the mirrors said; and at once those that
    /// are no server's.
    pub(super) fn first<T>(
        &self,
        skip: usize,
        ask: impl Fn(&Client) -> Result<T, SourceFailure>,
    ) -> Result<T, SourceFailure> {
        let (last, mirrors) = self.split();
        for mirror in mirrors.iter().skip(skip) {
            if mirror.out.get().is_some() {
                continue;
            }
            match ask(&mirror.client) {
                Err(error) if is_of_server(&error) => mirror.passed_over(&error),
                result => return result,
            }
        }
        ask(&last.client).map_err(|error| match error {
            SourceFailure::Registry(error) => SourceFailure::Registry(RegistryError {
                mirrors: mirrors.iter().filter_map(Endpoint::said).collect(),
                ..error
            }),
            error => error,
        })
    }

    fn split(&self) -> (&Endpoint, &[Endpoint]) {
        let (last, mirrors) = (self.clients.split_last()).expect("the registry is always in it");
        (last, mirrors)
    }
}

impl Endpoint {
    /// Keeps in mind what a mirror said.
    fn passed_over(&self, error: &SourceFailure) {
        let reason = match error {
            SourceFailure::Registry(error) => error.without_image(),
            SourceFailure::Manifest(ManifestError::WrongBytes { what, .. }) => {
                let mirror = &self.client.image().registry;
                format!("{mirror} has a {what} with wrong content")
            }
            error => error.to_string(),
        };
        tracing::info!(%reason, "a mirror is passed over");
        if let SourceFailure::Registry(error) = error
            && error.problem.is_lasting()
        {
            let _ = self.out.set(reason.clone());
        }
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    fn said(&self) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        said.clone()
    }
}

/// Whether another server may do better.
fn is_of_server(error: &SourceFailure) -> bool {
    match error {
        SourceFailure::Registry(error) => !matches!(
            *error.problem,
            RegistryProblem::AuthFile { .. } | RegistryProblem::ProxyVariable { .. }
        ),
        SourceFailure::Manifest(ManifestError::WrongBytes { .. }) => true,
        _ => false,
    }
}
