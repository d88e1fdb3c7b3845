//! What goes into the table, within the room there is: Services' few rules always, then policies as exactly as
//! possible, then the way past the relay for as many as fit.

use terrarium_cni::iptables::{Chain, Hook, Match, Place, Rule};

use super::{SERVICES, base};
use crate::config::Config;
use crate::policy::Compiled;
use crate::policy::acl::{self, Level};

/// The chains for this many bytes, and how exactly they say what policies do; `None`: not at all. `past` are rules that
/// lead past the relay, those of each Service together.
pub fn plan(
    config: &Config,
    policies: Option<&Compiled>,
    past: &[Vec<Rule>],
    room: usize,
) -> (Vec<Chain>, Option<Level>) {
    let services = services(config, &[]);
    let room = room.saturating_sub(services.size());
    let size = |chains: &[Chain]| chains.iter().map(Chain::size).sum::<usize>();
    let level = |level| (acl::chains_of(policies, config, level), level);
    let fitting = Level::ALL.into_iter().map(level).find(|(chains, _)| size(chains) <= room);
    let Some((mut chains, level)) = fitting else { return (vec![services], None) };
    let mut left = room - size(&chains);
    let fits = |rules: &&Vec<Rule>| {
        let size: usize = rules.iter().map(Rule::size).sum();
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    };
    // Past the relay goes what no policy has led there.
    let past: Vec<_> = past.iter().filter(|_| level == Level::Exact).filter(fits).flatten().cloned().collect();
    chains.push(self::services(config, &past));
    (chains, Some(level))
}

/// The rules of Services.
fn services(config: &Config, past: &[Rule]) -> Chain {
    let jumps = vec![(Hook::Prerouting, Match::all()), (Hook::Output, Match::all())];
    let rules = base::before(config).into_iter().chain(past.iter().cloned()).chain(base::after(config)).collect();
    // After the policies, whichever of them was set last: they are asked for the destination that a Pod named.
    Chain { name: SERVICES, jumps, place: Place::Last, rules }
}

#[cfg(test)]
mod tests {
    use terrarium_cni::iptables::{Protocol, Target};

    use super::*;
    use crate::fixtures::config;

    fn past(count: usize) -> Vec<Rule> {
        let rule = Match::protocol(Protocol::Tcp).then(Target::Return);
        vec![rule; count]
    }

    #[test]
    fn policies_are_asked_before_services_lead_elsewhere() {
        let (chains, _) = plan(&config(), None, &[], usize::MAX);
        let services = chains.iter().find(|chain| chain.name == SERVICES).unwrap();
        assert_eq!(services.place, Place::Last);
    }

    #[test]
    fn as_many_go_past_the_relay_as_fit() {
        let (few, many) = (past(1), past(9));
        let all = [many.clone(), few.clone()];
        let rules = |room| {
            let (chains, level) = plan(&config(), None, &all, room);
            assert_eq!(level, Some(Level::Exact));
            let size: usize = chains.iter().map(Chain::size).sum();
            assert!(size <= room);
            chains[0].rules.len()
        };
        let least = services(&config(), &[]);
        assert_eq!(rules(usize::MAX), least.rules.len() + 10);
        assert_eq!(rules(least.size() + few[0].size()), least.rules.len() + 1);
        assert_eq!(rules(least.size()), least.rules.len());
    }

    #[test]
    fn where_nothing_fits_that_is_said() {
        assert_eq!(plan(&config(), None, &[], 1000).1, Some(Level::Exact), "there are no policies");
        let compiled = crate::policy::tests::default_deny();
        assert_eq!(plan(&config(), Some(&compiled), &[], 1500).1, None);
        assert_eq!(plan(&config(), Some(&compiled), &[], 8000).1, Some(Level::Exact));
    }
}
