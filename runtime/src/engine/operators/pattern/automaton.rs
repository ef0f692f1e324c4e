//! A row pattern as an automaton without empty moves: what may be matched after what, the preferred first.

/// The most places of an automaton: a variable in the pattern is one place, and one more for each further repetition
/// that `{n,m}` spells out.
pub(crate) const PLACES_MAX: usize = 1000;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Term {
    /// A row that fulfils the condition of the variable with this number.
    Variable(u8),
    /// One after the other.
    Sequence(Vec<Term>),
    /// One of them; the first is preferred.
    Either(Vec<Term>),
    /// Several times.
    Repeat {
        term: Box<Term>,
        min: u32,
        /// `None`: any number of times.
        max: Option<u32>,
        /// More is preferred to less.
        greedy: bool,
    },
}

impl Term {
    /// True where it may match without a row.
    pub(crate) fn may_be_empty(&self) -> bool {
        match self {
            Self::Variable(_) => false,
            Self::Sequence(terms) => terms.iter().all(Self::may_be_empty),
            Self::Either(terms) => terms.iter().any(Self::may_be_empty),
            Self::Repeat { term, min, .. } => *min == 0 || term.may_be_empty(),
        }
    }

    /// True where a part that may match without a row is repeated without a limit.
    pub(crate) fn repeats_nothing(&self) -> bool {
        match self {
            Self::Variable(_) => false,
            Self::Sequence(terms) | Self::Either(terms) => terms.iter().any(Self::repeats_nothing),
            Self::Repeat { term, max, .. } => term.repeats_nothing() || max.is_none() && term.may_be_empty(),
        }
    }
}

/// A place of the automaton, or [`ACCEPT`].
pub(crate) type Place = u32;

/// The match is whole.
pub(crate) const ACCEPT: Place = Place::MAX;

/// The automaton of a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Automaton {
    /// Where a match begins, the preferred place first.
    pub(crate) start: Vec<Place>,
    /// By place: the variable that its row must fulfil.
    pub(crate) variable: Vec<u8>,
    /// By place: where it goes on after its row, the preferred place first.
    pub(crate) next: Vec<Vec<Place>>,
}

/// An instruction of the pattern spelled out.
enum Step {
    Variable(u8),
    /// Goes on at any of these, the first preferred.
    Either(Vec<usize>),
    Jump(usize),
    Accept,
}

/// The pattern has more than [`PLACES_MAX`] places.
#[derive(Debug)]
pub(crate) struct TooLarge;

impl Automaton {
    /// The automaton of `pattern`.
    pub(crate) fn new(pattern: &Term) -> Result<Self, TooLarge> {
        let mut program = Program::default();
        program.add(pattern)?;
        program.steps.push(Step::Accept);
        let steps = &program.steps;
        let mut place_of = vec![ACCEPT; steps.len()];
        let mut variable = Vec::new();
        for (at, step) in steps.iter().enumerate() {
            if let Step::Variable(number) = step {
                place_of[at] = variable.len() as Place;
                variable.push(*number);
            }
        }
        let places = (0..steps.len()).filter(|at| matches!(steps[*at], Step::Variable(_)));
        let next = places.map(|at| reachable(steps, &place_of, at + 1)).collect();
        Ok(Self { start: reachable(steps, &place_of, 0), variable, next })
    }

    /// The variables of the places that `reached` names.
    fn variables(&self, reached: &[Place]) -> u64 {
        let places = reached.iter().filter(|place| **place != ACCEPT);
        places.fold(0, |all, place| all | 1 << self.variable[*place as usize])
    }

    /// True where the first row of each match is one of the set `of`.
    pub(crate) fn always_starts_with(&self, of: u64) -> bool {
        self.variables(&self.start) & !of == 0
    }

    /// True where no row of a match but the first can be one of the set `of`.
    pub(crate) fn only_starts_with(&self, of: u64) -> bool {
        self.next.iter().all(|next| self.variables(next) & of == 0)
    }
}

/// The places that are reached from `at` without a row, in the order of preference.
fn reachable(steps: &[Step], place_of: &[Place], at: usize) -> Vec<Place> {
    let mut seen = vec![false; steps.len()];
    let (mut stack, mut reached) = (vec![at], Vec::new());
    while let Some(at) = stack.pop() {
        if std::mem::replace(&mut seen[at], true) {
            continue;
        }
        match &steps[at] {
            Step::Variable(_) => reached.push(place_of[at]),
            Step::Accept => reached.push(ACCEPT),
            Step::Jump(to) => stack.push(*to),
            Step::Either(ways) => stack.extend(ways.iter().rev()),
        }
    }
    reached
}

/// A pattern spelled out.
#[derive(Default)]
struct Program {
    steps: Vec<Step>,
}

impl Program {
    fn add(&mut self, term: &Term) -> Result<(), TooLarge> {
        // Each place comes with a few instructions at most.
        if self.steps.len() > 4 * PLACES_MAX {
            return Err(TooLarge);
        }
        match term {
            Term::Variable(number) => self.steps.push(Step::Variable(*number)),
            Term::Sequence(terms) => terms.iter().try_for_each(|term| self.add(term))?,
            Term::Either(terms) => {
                let fork = self.steps.len();
                self.steps.push(Step::Either(vec![]));
                let (mut ways, mut ends) = (Vec::new(), Vec::new());
                for term in terms {
                    ways.push(self.steps.len());
                    self.add(term)?;
                    ends.push(self.steps.len());
                    self.steps.push(Step::Jump(0));
                }
                let end = self.steps.len();
                ends.into_iter().for_each(|at| self.steps[at] = Step::Jump(end));
                self.steps[fork] = Step::Either(ways);
            }
            Term::Repeat { term, min, max, greedy } => self.repeat(term, *min, *max, *greedy)?,
        }
        let places = self.steps.iter().filter(|step| matches!(step, Step::Variable(_))).count();
        if places > PLACES_MAX { Err(TooLarge) } else { Ok(()) }
    }

    fn repeat(&mut self, term: &Term, min: u32, max: Option<u32>, greedy: bool) -> Result<(), TooLarge> {
        for _ in 0..min {
            self.add(term)?;
        }
        let ways = |body: usize, end: usize| Step::Either(if greedy { vec![body, end] } else { vec![end, body] });
        let Some(max) = max else {
            let fork = self.steps.len();
            self.steps.push(Step::Jump(0));
            self.add(term)?;
            self.steps.push(Step::Jump(fork));
            self.steps[fork] = ways(fork + 1, self.steps.len());
            return Ok(());
        };
        let mut forks = Vec::new();
        for _ in min..max {
            forks.push(self.steps.len());
            self.steps.push(Step::Jump(0));
            self.add(term)?;
        }
        let end = self.steps.len();
        forks.into_iter().for_each(|fork| self.steps[fork] = ways(fork + 1, end));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repeat(variable: u8, min: u32, max: Option<u32>, greedy: bool) -> Term {
        Term::Repeat { term: Box::new(Term::Variable(variable)), min, max, greedy }
    }

    #[test]
    fn what_is_preferred_comes_first() {
        // A B*? (C | D)
        let term = Term::Sequence(vec![
            Term::Variable(0),
            repeat(1, 0, None, false),
            Term::Either(vec![Term::Variable(2), Term::Variable(3)]),
        ]);
        let automaton = Automaton::new(&term).unwrap();
        assert_eq!(automaton.variable, [0, 1, 2, 3]);
        assert_eq!(automaton.start, [0]);
        assert_eq!(automaton.next, [vec![2, 3, 1], vec![2, 3, 1], vec![ACCEPT], vec![ACCEPT]]);
        assert!(automaton.always_starts_with(1) && automaton.only_starts_with(1));
        assert!(!automaton.only_starts_with(2));
    }

    #[test]
    fn repetitions_with_limits_are_spelled_out_and_have_an_end() {
        let automaton = Automaton::new(&repeat(0, 1, Some(3), true)).unwrap();
        assert_eq!(automaton.start, [0]);
        assert_eq!(automaton.next, [vec![1, ACCEPT], vec![2, ACCEPT], vec![ACCEPT]]);
        let many = (0..6).fold(Term::Variable(0), |term, _| Term::Repeat {
            term: Box::new(term),
            min: 1000,
            max: Some(1000),
            greedy: true,
        });
        assert!(Automaton::new(&many).is_err());
    }

    #[test]
    fn what_may_be_empty_is_known() {
        let optional = repeat(0, 0, Some(1), true);
        assert!(optional.may_be_empty() && !optional.repeats_nothing());
        let loops = Term::Repeat { term: Box::new(optional), min: 1, max: None, greedy: true };
        assert!(loops.repeats_nothing());
    }
}
