use proptest::prelude::*;

use super::*;
use crate::tree::{Frontier, leaf_hash};

#[test]
fn paths_follow_the_standard() {
    let root = Path::new("/log");
    for (index, width, expected) in [
        (0, 256, "/log/tile/0/000"),
        (67, 256, "/log/tile/0/067"),
        (1_234_067, 256, "/log/tile/0/x001/x234/067"),
        (5000, 112, "/log/tile/0/x005/000.p/112"),
    ] {
        assert_eq!(path(root, "0", index, width), Path::new(expected));
    }
    assert_eq!(
        path(root, "entries", 3, 256),
        Path::new("/log/tile/entries/003")
    );
}

#[test]
fn a_tree_of_seventy_thousand_has_the_tiles_the_standard_says() {
    let mut edge = Edge::default();
    let mut full = Vec::new();
    for n in 0..70_000_u32 {
        edge.push(leaf_hash(&n.to_be_bytes()), &mut full);
    }
    assert_eq!(full.iter().filter(|tile| tile.level == 0).count(), 273);
    assert_eq!(full.iter().filter(|tile| tile.level == 1).count(), 1);
    let partial: Vec<_> = edge
        .partial()
        .map(|(l, n, tile)| (l, n, tile.width()))
        .collect();
    assert_eq!(partial, [(0, 273, 112), (1, 1, 17), (2, 0, 1)]);
    assert_eq!(full.last().map(|tile| tile.index), Some(272));
}

#[test]
fn a_tile_with_a_lost_page_is_not_one() {
    let mut tile = Tile::default();
    for n in 0..256_u32 {
        tile.push(leaf_hash(&n.to_be_bytes()));
    }
    let bytes = tile.bytes();
    assert_eq!(Tile::from_bytes(&bytes).as_ref(), Some(&tile));
    assert_eq!(Tile::from_bytes(&bytes[..8191]), None);
    let mut lost = bytes;
    lost[4096..].fill(0);
    assert_eq!(Tile::from_bytes(&lost), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_edge_has_the_root_of_the_tree(size in 0_u32..1500) {
        let (mut edge, mut frontier) = (Edge::default(), Frontier::default());
        let mut full = Vec::new();
        for n in 0..size {
            edge.push(leaf_hash(&n.to_be_bytes()), &mut full);
            frontier.push(leaf_hash(&n.to_be_bytes()));
        }
        prop_assert_eq!(edge.root(), frontier.root());
    }
}
