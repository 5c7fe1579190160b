//! The regression check: the ratios that this run lost against a kept report.
//!
//! Only ratios are compared, because they repeat on another day and on another machine of the same
//! kind. A loss counts when the median is worse by more than [`LOSS_MAX`] and no round of this run
//! was as good as the kept median, so that noise in a single round decides nothing.

use super::{Better, Figure, Report};

/// The part of a ratio that may be lost.
const LOSS_MAX: f64 = 0.15;

/// One line for each loss. `Err` when the two reports cannot be compared.
pub(crate) fn compare(kept: &Report, fresh: &Report) -> Result<Vec<String>, String> {
    if kept.run.effort != fresh.run.effort {
        return Err(format!(
            "the kept report is of a {} run, this one of a {} run",
            kept.run.effort, fresh.run.effort
        ));
    }
    let with_ratio = kept.figures.iter().filter(|f| f.peer.is_some());
    Ok(with_ratio
        .filter_map(|before| loss(before, fresh))
        .collect())
}

fn loss(before: &Figure, fresh: &Report) -> Option<String> {
    let what = format!("{}: {}, beside {}", before.area, before.name, peer(before));
    let same =
        |f: &&Figure| f.area == before.area && f.name == before.name && peer(f) == peer(before);
    let Some(after) = fresh.figures.iter().find(same) else {
        return Some(format!("{what}: not measured any more"));
    };
    let (was, is) = (before.ratio()?.median, after.ratio()?);
    let (lost, as_good_once) = match before.better {
        Better::Higher => (1.0 - is.median / was, is.high >= was),
        Better::Lower => (is.median / was - 1.0, is.low <= was),
    };
    (lost > LOSS_MAX && !as_good_once).then(|| {
        format!(
            "{what}: was {was:.3} ×, is {:.3} × ({:.0} % lost)",
            is.median,
            lost * 100.0
        )
    })
}

fn peer(figure: &Figure) -> &str {
    figure.peer.as_ref().map_or("", |peer| &peer.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        machine::{Machine, Run},
        report::Rounds,
    };

    fn report(effort: &str, rate: &[f64], time: &[f64]) -> Report {
        let machine = Machine {
            cpu: String::new(),
            cores: 2,
            memory_gib: 1.0,
            kernel: String::new(),
            scratch: String::new(),
        };
        let run = Run {
            effort: effort.to_owned(),
            began: String::new(),
            seconds: 0.0,
            load_before: 0.0,
            commit: String::new(),
            rust: String::new(),
            openbao: String::new(),
        };
        let mut report = Report::new(machine, run);
        let peer = Rounds::from(10.0);
        let [rate, time] = [rate, time].map(|all| all.iter().copied().collect::<Rounds>());
        report.add(Figure::high("area", "rate", "/s", &rate).beside("peer", &rate, &peer));
        report.add(Figure::low("area", "time", "ms", &time).beside("peer", &time, &peer));
        report
    }

    #[test]
    fn a_loss_of_more_than_the_limit_is_reported() {
        let kept = report("full", &[90.0, 100.0, 110.0], &[90.0, 100.0, 110.0]);
        let told =
            |rate: &[f64], time: &[f64]| compare(&kept, &report("full", rate, time)).unwrap();
        assert_eq!(told(&[90.0], &[110.0]), Vec::<String>::new());
        assert_eq!(told(&[300.0], &[20.0]), Vec::<String>::new());
        assert_eq!(told(&[80.0, 80.0, 80.0], &[100.0]).len(), 1);
        let both = told(&[80.0, 84.0, 99.0], &[101.0, 120.0, 120.0]);
        assert_eq!(both.len(), 2, "{both:?}");
        assert!(
            both[0].contains("was 10.000 ×, is 8.400 × (16 % lost)"),
            "{both:?}"
        );
    }

    #[test]
    fn one_round_as_good_as_before_is_no_loss() {
        let kept = report("full", &[100.0], &[100.0]);
        let fresh = report("full", &[70.0, 75.0, 100.0], &[100.0, 140.0, 150.0]);
        assert_eq!(compare(&kept, &fresh).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_missing_figure_is_reported_and_an_incomparable_one_is_not() {
        let kept = report("full", &[100.0], &[100.0]);
        let mut fresh = report("full", &[100.0], &[100.0]);
        fresh.figures.pop();
        let told = compare(&kept, &fresh).unwrap();
        assert_eq!(told, ["area: time, beside peer: not measured any more"]);
        assert!(compare(&kept, &report("quick", &[100.0], &[100.0])).is_err());
    }

    #[test]
    fn a_report_can_be_read_as_it_was_written() {
        let report = report("full", &[1.0, 2.0, 3.0], &[4.0]);
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
