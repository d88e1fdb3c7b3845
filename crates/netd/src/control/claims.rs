//! Who has a frontend that several Services want.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::rc::Rc;

use super::service::Name;
use crate::table::Frontend;

/// A Service that wants a frontend. The least of them has it: the oldest, then the first by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// When the Service was created.
    pub created: i64,
    /// The Service.
    pub name: Rc<Name>,
}

/// All that is wanted, with who wants it, in order.
#[derive(Debug, Default)]
pub struct Claims(HashMap<Frontend, Vec<Claim>>);

impl Claims {
    /// Notes a claim. The others for the same are returned where it has come before them.
    pub fn add(&mut self, frontend: Frontend, claim: Claim) -> &[Claim] {
        let claims = self.0.entry(frontend).or_insert_with(|| Vec::with_capacity(1));
        match claims.binary_search(&claim) {
            Ok(_) => &[],
            Err(at) => {
                claims.insert(at, claim);
                if at == 0 { &claims[1..] } else { &[] }
            }
        }
    }

    /// Forgets a claim. The others for the same are returned where it was the first.
    pub fn remove(&mut self, frontend: &Frontend, claim: &Claim) -> &[Claim] {
        let Some(claims) = self.0.get_mut(frontend) else { return &[] };
        let Ok(at) = claims.binary_search(claim) else { return &[] };
        claims.remove(at);
        if claims.is_empty() {
            self.0.remove(frontend);
            return &[];
        }
        if at == 0 { self.0.get(frontend).map_or(&[], Vec::as_slice) } else { &[] }
    }

    /// Who has it.
    pub fn holder(&self, frontend: &Frontend) -> Option<&Rc<Name>> {
        self.0.get(frontend)?.first().map(|claim| &claim.name)
    }
}

/// What is claimed with a frontend: the node's own address and "any address of the node" exclude each other.
pub fn claimed(frontend: Frontend, node: Ipv4Addr) -> Frontend {
    let address = if frontend.address == node { Ipv4Addr::UNSPECIFIED } else { frontend.address };
    Frontend { address, ..frontend }
}
