use taskpass_core::SvidState;
use taskpass_store::{Batch, CommitError, Store as _};

use super::*;
use crate::{Settings, testing::Bench};

/// Uses up all room but the reserve.
async fn fill(bench: &Bench) {
    bench.disk.set_free(Some(0));
    // Ever smaller batches fill the blocks that are allocated already.
    for (bytes, times) in [(60_000, 50), (60_000, 1), (10, 1)] {
        let filler = Event::IndexRebuilt {
            reason: "x".repeat(bytes),
        };
        let batch = Batch::new(vec![filler; times]);
        while bench.store.commit(batch.clone()).await.is_ok() {}
    }
}

/// Otherwise a thief would go on working with the earlier identity for as long as the disk is full.
#[tokio::test]
async fn a_full_disk_keeps_no_login_from_its_first_use() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let serial = bench.agent.caller.serial();
    let svid = bench.store.svid(serial).await.unwrap().unwrap();
    assert_eq!(svid.state, SvidState::Pending);
    fill(&bench).await;
    let gift = Event::IndexRebuilt {
        reason: String::new(),
    };
    let refused = bench.store.commit(Batch::new([gift])).await;
    assert_eq!(refused, Err(CommitError::DiskFull));

    bench.engine.activate_svid(&svid).await.unwrap();

    let svid = bench.store.svid(serial).await.unwrap().unwrap();
    assert_eq!(svid.state, SvidState::Active);
}
