use taskpass_core::SvidState;
use taskpass_store::{Batch, CommitError, Store as _};

use super::*;
use crate::{Settings, testing::Bench};

/// Otherwise a thief would go on working with the earlier identity for as long as the disk is full.
#[tokio::test]
async fn a_full_disk_keeps_no_login_from_its_first_use() {
    let bench = Bench::new(&["a"], Settings::default()).await;
    let serial = bench.agent.caller.serial();
    let svid = bench.store.svid(serial).await.unwrap().unwrap();
    assert_eq!(svid.state, SvidState::Pending);
    bench.fill().await;
    let gift = Event::IndexRebuilt {
        reason: String::new(),
    };
    let refused = bench.store.commit(Batch::new([gift])).await;
    assert_eq!(refused, Err(CommitError::DiskFull));

    bench.engine.activate_svid(&svid).await.unwrap();

    let svid = bench.store.svid(serial).await.unwrap().unwrap();
    assert_eq!(svid.state, SvidState::Active);
}
