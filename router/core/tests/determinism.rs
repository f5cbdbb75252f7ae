//! Equal inputs give equal actions, and the core can name nothing that could break that.

use std::process::Command;

use slackwater_sim::{Scenario, Seed};

#[test]
fn the_same_seed_gives_the_same_actions() {
    for seed in 0..40 {
        let scenario = Scenario::random(Seed(seed));
        assert_eq!(scenario.run(), Scenario::random(Seed(seed)).run());
    }
}

#[test]
fn different_seeds_give_different_actions() {
    let digest = |seed| Scenario::random(Seed(seed)).run().digest;
    assert_ne!(digest(1), digest(2));
}

#[test]
fn the_core_depends_on_nothing_that_knows_a_clock_a_socket_or_chance() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "-p", "slackwater-core"])
        .args(["-e", "normal", "--depth", "1", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let listing = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(names, ["slackwater-core", "thiserror"]);
}
