const card = document.getElementById("__ID__-card");
const live = document.getElementById("__ID__");
const drawn = new MutationObserver(() => {
  drawn.disconnect();
  card.classList.add("ictl-drawn");
});
drawn.observe(live, { childList: true });
CircuitsVis.render("__ID__", CircuitsVis.__COMPONENT__, __PROPS__);
