//! Requests by method and code.

use std::{array, collections::HashMap, sync::OnceLock, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{Code, OTHER, code};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMethod {
    method: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfCode {
    method: String,
    code: &'static str,
}

/// A method from the list, or `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method(usize);

/// The counters of requests.
#[derive(Debug)]
pub struct Requests {
    index: HashMap<String, usize>,
    /// In the order of the list; the last is for methods that are not in it.
    methods: Vec<OneMethod>,
    by_code: Family<OfCode, Counter>,
}

#[derive(Debug)]
struct OneMethod {
    name: String,
    took: Histogram,
    /// Made when the code first occurs, so that the text does not list all that never did.
    codes: [OnceLock<Counter>; code::COUNT],
}

impl Requests {
    pub(crate) fn new(names: Vec<String>, registry: &mut Registry) -> Self {
        let by_code = Family::<OfCode, Counter>::default();
        let took: Family<OfMethod, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| {
                Histogram::new([
                    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
                ])
            });
        registry.register(
            "requests",
            "Requests that ended, by method and code",
            by_code.clone(),
        );
        registry.register_with_unit(
            "request",
            "Time from a request's headers to the end of its answer",
            Unit::Seconds,
            took.clone(),
        );
        let methods: Vec<OneMethod> = names
            .into_iter()
            .chain([OTHER.to_owned()])
            .map(|name| OneMethod {
                took: took.get_or_create_owned(&OfMethod {
                    method: name.clone(),
                }),
                name,
                codes: array::from_fn(|_| OnceLock::new()),
            })
            .collect();
        let index = methods
            .iter()
            .enumerate()
            .map(|(at, method)| (method.name.clone(), at))
            .collect();
        Self {
            index,
            methods,
            by_code,
        }
    }

    /// The method of that name.
    pub fn method(&self, name: &str) -> Method {
        let last = self.methods.len().saturating_sub(1);
        Method(self.index.get(name).copied().unwrap_or(last))
    }

    /// The name of a method as labels and logs have it.
    pub fn name(&self, method: Method) -> &str {
        self.methods
            .get(method.0)
            .map_or(OTHER, |m| m.name.as_str())
    }

    /// A request ended.
    pub fn done(&self, method: Method, code: Code, took: Duration) {
        let Some(method) = self.methods.get(method.0) else {
            return;
        };
        method.took.observe(took.as_secs_f64());
        if let Some(counter) = method.codes.get(code.index()) {
            let make = || {
                self.by_code.get_or_create_owned(&OfCode {
                    method: method.name.clone(),
                    code: code.as_str(),
                })
            };
            counter.get_or_init(make).inc();
        }
    }
}
