const card = document.getElementById("__ID__-card");
const live = document.getElementById("__ID__");
const described = () => {
  for (const canvas of live.querySelectorAll("canvas:not([aria-hidden])")) {
    canvas.removeAttribute("role");
    canvas.setAttribute("aria-hidden", "true"); // the card's label describes all of them
  }
};
new MutationObserver(() => {
  card.classList.add("ictl-drawn");
  described();
}).observe(live, { childList: true, subtree: true });
CircuitsVis.render("__ID__", CircuitsVis.__COMPONENT__, __PROPS__);
